"""Counts and sums that become loss, accuracy and per-class figures, exact over any division of the samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tlkit.distributed.world import SINGLE_PROCESS, World
from tlkit.training.evaluation import Evaluation, Predictions, evaluate_predictions, f1_scores


class MetricAccumulator:
    """What a pass over samples adds up to: the summed loss and three counts for each class."""

    def __init__(self, classes: int) -> None:
        self.loss_sum = 0.0
        self.samples = 0
        self.actual = torch.zeros(classes, dtype=torch.int64)
        self.predicted = torch.zeros(classes, dtype=torch.int64)
        self.correct = torch.zeros(classes, dtype=torch.int64)

    def add(self, logits: Tensor, labels: Tensor, mean_loss: float, world: World = SINGLE_PROCESS) -> None:
        """Add a batch. logits [S, C], labels [S]: this rank's share of it; mean_loss: averaged over all of it."""
        batch = MetricAccumulator(len(self.actual))
        batch.count(logits, labels)
        batch.of_all(world)
        self.loss_sum += mean_loss * batch.samples
        self.samples += batch.samples
        self.actual += batch.actual
        self.predicted += batch.predicted
        self.correct += batch.correct

    def count(self, logits: Tensor, labels: Tensor) -> None:
        """Count samples [S], of logits [S, C], without their loss. What has a label below 0 only fills up a share."""
        classes, real = len(self.actual), labels >= 0
        predicted, labels = logits.detach().argmax(dim=1)[real], labels[real]
        self.samples += len(labels)
        self.actual += torch.bincount(labels, minlength=classes).cpu()
        self.predicted += torch.bincount(predicted, minlength=classes).cpu()
        self.correct += torch.bincount(labels[predicted == labels], minlength=classes).cpu()

    def of_all(self, world: World) -> None:
        """Become what all ranks have counted."""
        self.actual, self.predicted, self.correct = world.all_reduce_sum(
            torch.stack([self.actual, self.predicted, self.correct])
        )
        self.samples = int(self.actual.sum())

    def figures(self) -> dict[str, float]:
        """loss, accuracy and macro_f1 of what was added."""
        found, guessed, right = self.actual.numpy(), self.predicted.numpy(), self.correct.numpy()
        return {
            "loss": self.loss_sum / max(self.samples, 1),
            "accuracy": float(right.sum()) / max(self.samples, 1),
            "macro_f1": float(f1_scores(found, guessed, right)[found > 0].mean()) if self.samples else 0.0,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a checkpoint inside an epoch."""
        return {
            "loss_sum": self.loss_sum,
            "samples": self.samples,
            "actual": self.actual.tolist(),
            "predicted": self.predicted.tolist(),
            "correct": self.correct.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MetricAccumulator:
        """The inverse of to_dict."""
        tally = cls(len(values["actual"]))
        tally.loss_sum, tally.samples = values["loss_sum"], values["samples"]
        for name in ("actual", "predicted", "correct"):
            setattr(tally, name, torch.tensor(values[name], dtype=torch.int64))
        return tally


def better(metric: str, new: Mapping[str, float], old: Mapping[str, float] | None) -> bool:
    """Whether the figures `new` beat `old`; where the metric is equal, the smaller loss wins.

    What is no number beats nothing, and nothing is kept that is none.
    """
    if not all(math.isfinite(new[name]) for name in (metric, "loss")):
        return False
    if old is None:
        return True
    sign = -1.0 if metric == "loss" else 1.0
    return (sign * new[metric], -new["loss"]) > (sign * old[metric], -old["loss"])


def evaluate_logits(logits: Tensor, labels: Tensor, classes: tuple[str, ...]) -> Evaluation:
    """Measure logits [N, C] against labels [N]."""
    return evaluate_predictions(predictions_from_logits(logits, labels), classes)


def predictions_from_logits(logits: Tensor, labels: Tensor) -> Predictions:
    """logits [N, C]; labels [N]"""
    scores = logits.detach().double().log_softmax(dim=1)
    best, predicted = scores.max(dim=1)
    losses = -scores.gather(1, labels[:, None])[:, 0]
    return Predictions(*(tensor.cpu().numpy() for tensor in (labels, predicted, best.exp(), losses)))


def joined(parts: Iterable[Predictions]) -> Predictions:
    """The answers of several batches, in order."""
    columns = zip(*((part.labels, part.predicted, part.confidence, part.losses) for part in parts), strict=True)
    return Predictions(*(np.concatenate(column) for column in columns))


@torch.no_grad()
def predict_all(module: nn.Module, batches: Iterable[tuple[Tensor, Tensor, int]]) -> Predictions:
    """What a module answers to all samples of batches."""
    module.eval()
    device = next(module.parameters()).device
    return joined(
        predictions_from_logits(module(inputs.to(device)), labels.to(device)) for inputs, labels, _ in batches
    )
