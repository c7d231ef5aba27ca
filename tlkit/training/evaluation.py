"""A classifier measured on labelled samples: figures of the whole and of each class, in numpy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Predictions:
    """What a classifier answered, one entry for each sample [N].

    labels: the true classes. guesses: those with the highest probability. confidence: that probability.
    losses: the cross-entropy, minus the logarithm of the true class's probability.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    losses: NDArray[np.float64]

    @property
    def correct(self) -> NDArray[np.bool_]:
        return np.asarray(self.labels == self.predicted)

    def most_confident_mistakes(self, most: int) -> list[int]:
        """The indices of the wrong answers that were given with the highest probability, the worst first."""
        wrong = np.flatnonzero(~self.correct)
        order = np.lexsort((wrong, -self.confidence[wrong]))
        return [int(index) for index in wrong[order[:most]]]


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


@dataclass(frozen=True)
class Calibration:
    """How often a classifier is right when it is so sure. All arrays are indexed by bin [B], of equal width.

    edges [B + 1]: of the bins; one holds its upper edge and not its lower one. samples: in each bin.
    confidence, accuracy: their mean probability, and the share that is right; 0 in an empty bin.
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


def evaluate_predictions(answers: Predictions, classes: tuple[str, ...]) -> Evaluation:
    """Measure what was answered."""
    count = len(classes)
    pairs = np.bincount(answers.labels * count + answers.predicted, minlength=count * count)
    return Evaluation(
        classes=classes,
        confusion=pairs.reshape(count, count),
        loss=float(answers.losses.mean()) if len(answers.losses) else 0.0,
        calibration_error=calibrate(answers.confidence, answers.correct).error,
    )


def calibrate(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = CALIBRATION_BINS) -> Calibration:
    """confidence [N]: the probability of the predicted class; correct [N]."""
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    samples = np.bincount(index, minlength=bins)
    sums = [np.bincount(index, weights=values, minlength=bins) for values in (confidence, correct)]
    return Calibration(edges, samples, *(total / np.maximum(samples, 1) for total in sums))


def f1_scores(
    actual: NDArray[np.int64], predicted: NDArray[np.int64], correct: NDArray[np.int64]
) -> NDArray[np.float64]:
    """F1 = 2 TP / (2 TP + FP + FN) for each class; 0 where a class was neither there nor guessed."""
    return np.asarray(2 * correct / np.maximum(actual + predicted, 1), dtype=np.float64)
