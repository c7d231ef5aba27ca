"""Evaluate predictions: per-class figures, the confusion matrix and calibration, in numpy alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tlkit.training.class_pairs import Confusion
from tlkit.training.metrics import f1_scores

CALIBRATION_BINS = 15

NORMAL_QUANTILE = 1.959964
"""Standard deviations of a normal distribution on each side that leave out 5 %."""


@dataclass(frozen=True)
class Predictions:
    """The predictions of a classifier, one entry for each sample [N].

    labels: the true classes. predicted: the most probable ones. confidence: their probability. losses: minus the
    logarithm of the true class's probability.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    losses: NDArray[np.float64]

    @property
    def correct(self) -> NDArray[np.bool_]:
        return np.asarray(self.labels == self.predicted)

    def most_confident_mistakes(self, most: int) -> list[int]:
        """The indices of the wrong predictions with the highest probability, the highest first."""
        wrong = np.flatnonzero(~self.correct)
        order = np.lexsort((wrong, -self.confidence[wrong]))
        return [int(index) for index in wrong[order[:most]]]


@dataclass(frozen=True)
class Calibration:
    """Accuracy by confidence. Arrays are indexed by bin [B]; bins have equal width.

    edges [B + 1]: of the bins, each of which includes its upper edge only. samples: in each bin. confidence: their mean
    probability; accuracy: the share that is correct; both 0 in an empty bin.
    """

    edges: NDArray[np.float64]
    samples: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def error(self) -> float:
        """The mean distance between confidence and accuracy, weighted by samples. Guo et al., "On Calibration of
        Modern Neural Networks", 2017."""
        return float((self.samples * np.abs(self.confidence - self.accuracy)).sum() / max(self.samples.sum(), 1))


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation. Arrays are indexed by class [C].

    figures: the value of each metric; empty where only the best class of each sample is known.
    """

    classes: tuple[str, ...]
    confusion: Confusion
    calibration: Calibration
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return int(self.confusion.images.sum())

    @property
    def correct(self) -> int:
        """Number of samples that are predicted correctly."""
        return int(self.confusion.correct.sum())

    @cached_property
    def support(self) -> NDArray[np.int64]:
        """Samples of each class."""
        return self.confusion.support

    @cached_property
    def precision(self) -> NDArray[np.float64]:
        """The share of predictions of a class that are correct; 0 for a class that is never predicted."""
        return np.asarray(self.confusion.correct / np.maximum(self.confusion.predictions, 1))

    @cached_property
    def recall(self) -> NDArray[np.float64]:
        """The share of a class that is predicted correctly; 0 for a class that does not occur."""
        return np.asarray(self.confusion.correct / np.maximum(self.support, 1))

    @cached_property
    def f1(self) -> NDArray[np.float64]:
        return f1_scores(self.support, self.confusion.predictions, self.confusion.correct)


def evaluate_predictions(predictions: Predictions, classes: tuple[str, ...]) -> Evaluation:
    """Confusions and calibration of predictions; figures need the logits, see predictions.measured_rows."""
    confusion = Confusion.of(predictions.labels, predictions.predicted, len(classes))
    return Evaluation(classes, confusion, calibrate(predictions.confidence, predictions.correct))


def calibrate(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = CALIBRATION_BINS) -> Calibration:
    """confidence [N]: the probability of the predicted class; correct [N]."""
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    samples = np.bincount(index, minlength=bins)
    sums = [np.bincount(index, weights=values, minlength=bins) for values in (confidence, correct)]
    return Calibration(edges, samples, *(total / np.maximum(samples, 1) for total in sums))


def standard_error(accuracy: float, samples: int) -> float:
    """The standard error of an accuracy measured on `samples` images."""
    return math.sqrt(accuracy * (1 - accuracy) / max(samples, 1))


def wilson_interval(correct: int, samples: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share, `correct` of `samples` (Wilson 1927); (0, 1) without samples."""
    if not samples:
        return 0.0, 1.0
    share, z2 = correct / samples, NORMAL_QUANTILE**2 / samples
    half = NORMAL_QUANTILE * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples))
    return max(0.0, (share + z2 / 2 - half) / (1 + z2)), min(1.0, (share + z2 / 2 + half) / (1 + z2))
