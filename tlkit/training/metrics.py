"""The metrics of a classifier in one table, which everything that names, compares or shows a metric reads.

Loads no torch. To add a metric: a row of METRICS, and its name in `tlkit/options/finetune.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Counts:
    """Counts over labeled samples; those of batches and of processes add up exactly.

    loss_sum: of the per-sample losses. actual, predicted, correct [C]: samples by class. true_rank [C]: samples whose
    true class has the highest score, the second highest, and so on.
    """

    loss_sum: float
    actual: NDArray[np.int64]
    predicted: NDArray[np.int64]
    correct: NDArray[np.int64]
    true_rank: NDArray[np.int64]

    @property
    def samples(self) -> int:
        return int(self.actual.sum())

    def mean(self, total: float) -> float:
        """A sum over samples, divided by their number."""
        return float(total) / max(self.samples, 1)

    def mean_over_classes(self, values: NDArray[np.float64]) -> float:
        """The mean of values [C] over the classes that occur."""
        return float(values[self.actual > 0].mean()) if self.samples else 0.0


@dataclass(frozen=True)
class Metric:
    """A metric. label: its name in texts. about: the unit of its chart. value: computes it from counts.

    headline: shown wherever there is room for a few metrics; the others are shown there only when --metric names them.
    is_share: between 0 and 1, written as a percentage in reports.
    """

    label: str
    about: str
    value: Callable[[Counts], float]
    larger_is_better: bool = True
    headline: bool = False
    is_share: bool = True

    def objective(self, value: float) -> float:
        """The value with its sign chosen so that larger is better."""
        return value if self.larger_is_better else -value

    def text(self, value: float | None) -> str:
        """0.9612 -> "0.9612"; an unknown value is empty."""
        return "" if value is None else f"{value:.4f}"

    def report_text(self, value: float) -> str:
        """0.9612 -> "96.1%" for a share."""
        return f"{value:.1%}" if self.is_share else self.text(value)


def f1_scores(
    actual: NDArray[np.int64], predicted: NDArray[np.int64], correct: NDArray[np.int64]
) -> NDArray[np.float64]:
    """F1 = 2 TP / (2 TP + FP + FN) of each class; 0 for a class that neither occurs nor is predicted."""
    return np.asarray(2 * correct / np.maximum(actual + predicted, 1), dtype=np.float64)


METRICS: dict[str, Metric] = {
    "accuracy": Metric("accuracy", "share correct", lambda c: c.mean(c.correct.sum()), headline=True),
    "macro_f1": Metric(
        "macro F1",
        "mean over classes",
        lambda c: c.mean_over_classes(f1_scores(c.actual, c.predicted, c.correct)),
        headline=True,
    ),
    "loss": Metric("loss", "loss", lambda c: c.mean(c.loss_sum), larger_is_better=False, headline=True, is_share=False),
    "balanced_accuracy": Metric(
        "balanced accuracy",
        "mean recall over classes",
        lambda c: c.mean_over_classes(c.correct / np.maximum(c.actual, 1)),
    ),
    "top5_accuracy": Metric("top-5 accuracy", "true class in the best 5", lambda c: c.mean(c.true_rank[:5].sum())),
}
"""By the name that --metric, JSON and history.jsonl have (there val_NAME)."""


def figures_of(counts: Counts) -> dict[str, float]:
    """Every metric of some counts."""
    return {name: metric.value(counts) for name, metric in METRICS.items()}


def shown_metrics(chosen: str) -> dict[str, Metric]:
    """The metrics to show where there is room for a few: the headline ones, and the one that --metric names."""
    return {name: metric for name, metric in METRICS.items() if metric.headline or name == chosen}


def metrics_text(figures: Mapping[str, float], names: Iterable[str], between: str = "  ") -> str:
    """accuracy 0.9412  macro F1 0.9410"""
    known = ((METRICS[name], figures[name]) for name in names if name in figures)
    return between.join(f"{metric.label} {metric.text(value)}" for metric, value in known)


def history_key(name: str) -> str:
    """The key of a validation metric in a row of history."""
    return f"val_{name}"


def better(name: str, new: Mapping[str, float], old: Mapping[str, float] | None) -> bool:
    """Whether the figures `new` beat `old`; where the metric is equal, the smaller loss wins.

    Figures that are not finite beat nothing.
    """
    if not all(math.isfinite(new[one]) for one in (name, "loss")):
        return False
    if old is None:
        return True
    objective = METRICS[name].objective
    return (objective(new[name]), -new["loss"]) > (objective(old[name]), -old["loss"])
