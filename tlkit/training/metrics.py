"""Counts and sums that become loss, accuracy and per-class figures, exact over any division of the samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlkit.distributed import ALONE, World


class Tally:
    """What a pass over samples adds up to: the summed loss and three counts for each class."""

    def __init__(self, classes: int) -> None:
        self.loss_sum = 0.0
        self.samples = 0
        self.actual = torch.zeros(classes, dtype=torch.int64)
        self.predicted = torch.zeros(classes, dtype=torch.int64)
        self.correct = torch.zeros(classes, dtype=torch.int64)

    def add(self, logits: Tensor, labels: Tensor, mean_loss: float, world: World = ALONE) -> None:
        """Add a batch. logits [S, C], labels [S]: this rank's share of it; mean_loss: averaged over all of it."""
        batch = Tally(len(self.actual))
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
        guesses, labels = logits.detach().argmax(dim=1)[real], labels[real]
        self.samples += len(labels)
        self.actual += torch.bincount(labels, minlength=classes).cpu()
        self.predicted += torch.bincount(guesses, minlength=classes).cpu()
        self.correct += torch.bincount(labels[guesses == labels], minlength=classes).cpu()

    def of_all(self, world: World) -> None:
        """Become what all ranks have counted."""
        self.actual, self.predicted, self.correct = world.sum(torch.stack([self.actual, self.predicted, self.correct]))
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
    def from_dict(cls, values: Mapping[str, Any]) -> Tally:
        """The inverse of to_dict."""
        tally = cls(len(values["actual"]))
        tally.loss_sum, tally.samples = values["loss_sum"], values["samples"]
        for name in ("actual", "predicted", "correct"):
            setattr(tally, name, torch.tensor(values[name], dtype=torch.int64))
        return tally


def f1_scores(
    actual: NDArray[np.int64], predicted: NDArray[np.int64], correct: NDArray[np.int64]
) -> NDArray[np.float64]:
    """F1 = 2 TP / (2 TP + FP + FN) for each class; 0 where a class was neither there nor guessed."""
    return np.asarray(2 * correct / np.maximum(actual + predicted, 1), dtype=np.float64)


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


@dataclass(frozen=True)
class Evaluation:
    """A classifier measured on labelled samples. All arrays are indexed by class.

    confusion [C, C]: rows are the true class, columns the predicted one.
    """

    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    loss: float
    calibration_error: float

    @property
    def samples(self) -> int:
        return int(self.confusion.sum())

    @property
    def support(self) -> NDArray[np.int64]:
        return np.asarray(self.confusion.sum(axis=1))

    @property
    def accuracy(self) -> float:
        return float(self.confusion.trace()) / max(self.samples, 1)

    @property
    def precision(self) -> NDArray[np.float64]:
        """Of what was called this class, the share that is; 0 where nothing was."""
        return np.asarray(self.confusion.diagonal() / np.maximum(self.confusion.sum(axis=0), 1))

    @property
    def recall(self) -> NDArray[np.float64]:
        """Of this class, the share that was found; 0 where there is none."""
        return np.asarray(self.confusion.diagonal() / np.maximum(self.support, 1))

    @property
    def f1(self) -> NDArray[np.float64]:
        return f1_scores(self.support, self.confusion.sum(axis=0), self.confusion.diagonal())

    @property
    def macro_f1(self) -> float:
        """The mean of F1 over the classes that occur."""
        return float(self.f1[self.support > 0].mean()) if self.samples else 0.0


def evaluate_logits(logits: Tensor, labels: Tensor, classes: tuple[str, ...]) -> Evaluation:
    """Measure logits [N, C] against labels [N]."""
    probabilities = torch.softmax(logits.double(), dim=1)
    confidence, guesses = probabilities.max(dim=1)
    count = len(classes)
    pairs = torch.bincount(labels * count + guesses, minlength=count * count)
    loss = torch.nn.functional.cross_entropy(logits.double(), labels).item() if len(labels) else 0.0
    return Evaluation(
        classes=classes,
        confusion=pairs.reshape(count, count).numpy(),
        loss=loss,
        calibration_error=expected_calibration_error(confidence.numpy(), (guesses == labels).numpy()),
    )


def expected_calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = 15) -> float:
    """The mean distance between confidence and accuracy over equal-width bins, weighted by their samples.

    confidence [N]: the probability of the predicted class; correct [N]. Guo et al., "On Calibration of Modern
    Neural Networks", 2017, with its 15 bins; a bin holds its upper edge and not its lower one.
    """
    if not len(confidence):
        return 0.0
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    gaps = np.abs(
        np.bincount(index, weights=confidence, minlength=bins) - np.bincount(index, weights=correct, minlength=bins)
    )
    return float(gaps.sum() / len(confidence))
