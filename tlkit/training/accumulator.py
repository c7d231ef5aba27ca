"""Add up the loss and the counts of a pass over samples; the result does not depend on how they are batched."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

from tlkit.distributed.world import SINGLE_PROCESS, World
from tlkit.training.metrics import METRICS, Counts, figures_of
from tlkit.training.objective import labelled
from tlkit.training.predictions import true_ranks

STORED = ("actual", "predicted", "correct")
"""The counts of a training epoch, as a checkpoint inside the epoch holds them."""


class StoredCounts(TypedDict):
    """A MetricAccumulator as a checkpoint holds it: counts by class."""

    loss_sum: float
    samples: int
    actual: list[int]
    predicted: list[int]
    correct: list[int]


class MetricAccumulator:
    """The summed loss and the counts of samples; see metrics.Counts."""

    def __init__(self, classes: int) -> None:
        self.loss_sum = 0.0
        self.samples = 0
        self.actual, self.predicted, self.correct, self.true_rank = torch.zeros(4, classes, dtype=torch.int64)

    def add(self, logits: Tensor, labels: Tensor, mean_loss: float, total: int, world: World = SINGLE_PROCESS) -> None:
        """Add a training batch of `total` samples. logits [S, C], labels [S]: this rank's share; mean_loss: over the
        whole batch. Of H heads, logits [S, C, H] and labels [S, H]: the mean of the sum of their losses.

        The ranks of the true classes are not counted: a training epoch reports loss and accuracy only.
        """
        batch = MetricAccumulator(len(self.actual))
        batch.count_classes(*labelled(logits.detach(), labels))
        batch.all_reduce(world)
        self.loss_sum += mean_loss * total
        self.samples += batch.samples
        for name in STORED:
            getattr(self, name).add_(getattr(batch, name))

    def count(self, logits: Tensor, labels: Tensor) -> None:
        """Count validation samples [S], of logits [S, C] or [S, C, H], without their loss."""
        logits, labels = labelled(logits.detach(), labels)
        self.count_classes(logits, labels)
        self.true_rank += torch.bincount(true_ranks(logits, labels), minlength=len(self.true_rank)).cpu()

    def count_classes(self, logits: Tensor, labels: Tensor) -> None:
        """Count the classes of labelled samples [N], of logits [N, C]."""
        classes = len(self.actual)
        predicted = logits.argmax(dim=1)
        self.samples += len(labels)
        self.actual += torch.bincount(labels, minlength=classes).cpu()
        self.predicted += torch.bincount(predicted, minlength=classes).cpu()
        self.correct += torch.bincount(labels[predicted == labels], minlength=classes).cpu()

    def all_reduce(self, world: World) -> None:
        """Replace the counts by those of all ranks together."""
        counts = torch.stack([self.actual, self.predicted, self.correct, self.true_rank])
        self.actual, self.predicted, self.correct, self.true_rank = world.all_reduce_sum(counts)
        self.samples = int(self.actual.sum())

    def figures(self) -> dict[str, float]:
        """Every metric of what was added."""
        return figures_of(self.counts())

    def training_figures(self) -> dict[str, float]:
        """The metrics that a training epoch reports."""
        counts = self.counts()
        return {name: METRICS[name].value(counts) for name in ("loss", "accuracy")}

    def counts(self) -> Counts:
        """The counts as arrays."""
        arrays = (self.actual, self.predicted, self.correct, self.true_rank)
        return Counts(self.loss_sum, *(tensor.numpy() for tensor in arrays))

    def to_dict(self) -> StoredCounts:
        """Plain types, for a checkpoint inside an epoch."""
        actual, predicted, correct = (getattr(self, name).tolist() for name in STORED)
        return StoredCounts(
            loss_sum=self.loss_sum, samples=self.samples, actual=actual, predicted=predicted, correct=correct
        )

    @classmethod
    def from_dict(cls, values: StoredCounts) -> MetricAccumulator:
        """The inverse of to_dict."""
        accumulator = cls(len(values["actual"]))
        accumulator.loss_sum, accumulator.samples = values["loss_sum"], values["samples"]
        for name in STORED:
            setattr(accumulator, name, torch.tensor(values[name], dtype=torch.int64))  # type: ignore[literal-required]
        return accumulator
