"""Metrics by hand, and against scikit-learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from tlkit.options.finetune import METRIC_NAMES
from tlkit.training.accumulator import MetricAccumulator
from tlkit.training.evaluation import Evaluation, calibrate, wilson_interval
from tlkit.training.history import EpochRow
from tlkit.training.metrics import METRICS, better
from tlkit.training.predictions import evaluate_rows, measured_rows, predict_all, predictions_from_logits


def evaluate_logits(logits: torch.Tensor, labels: torch.Tensor, classes: tuple[str, ...]) -> Evaluation:
    """Measure logits [N, C] against labels [N]."""
    return evaluate_rows(measured_rows(logits, labels), classes)


def random_case(classes: int, samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(samples, classes, generator=generator) * 2,
        torch.randint(0, classes, (samples,), generator=generator),
    )


@pytest.mark.parametrize(("classes", "samples"), [(2, 50), (5, 400), (30, 60)])
def test_an_evaluation_agrees_with_scikit_learn(classes: int, samples: int) -> None:
    logits, labels = random_case(classes, samples, seed=classes)
    found = evaluate_logits(logits, labels, tuple(map(str, range(classes))))
    predicted = logits.argmax(dim=1).numpy()
    truth = labels.numpy()
    names = list(range(classes))
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        truth, predicted, labels=names, zero_division=0
    )
    np.testing.assert_allclose(found.precision, precision)
    np.testing.assert_allclose(found.recall, recall)
    np.testing.assert_allclose(found.f1, f1)
    np.testing.assert_array_equal(found.support, support)
    np.testing.assert_array_equal(
        found.confusion.matrix(), sklearn_metrics.confusion_matrix(truth, predicted, labels=names)
    )


ORACLES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": lambda truth, scores: sklearn_metrics.accuracy_score(truth, scores.argmax(1)),
    "macro_f1": lambda truth, scores: sklearn_metrics.f1_score(
        truth, scores.argmax(1), labels=np.unique(truth), average="macro", zero_division=0
    ),
    "loss": lambda truth, scores: sklearn_metrics.log_loss(
        truth, torch.softmax(torch.from_numpy(scores).double(), 1).numpy(), labels=range(scores.shape[1])
    ),
    "balanced_accuracy": lambda truth, scores: sklearn_metrics.recall_score(
        truth, scores.argmax(1), labels=np.unique(truth), average="macro"
    ),
    "top5_accuracy": lambda truth, scores: (
        sklearn_metrics.top_k_accuracy_score(truth, scores, k=5, labels=range(scores.shape[1]))
        if scores.shape[1] > 5
        else 1.0
    ),
}
"""What scikit-learn says each metric is: labels [N], scores [N, C] -> value."""


@pytest.mark.parametrize(("classes", "samples"), [(2, 50), (5, 400), (30, 60)])
@pytest.mark.parametrize("name", METRICS)
def test_every_metric_agrees_with_scikit_learn(name: str, classes: int, samples: int) -> None:
    logits, labels = random_case(classes, samples, seed=classes)
    expected = ORACLES[name](labels.numpy(), logits.numpy())
    assert evaluate_logits(logits, labels, tuple(map(str, range(classes)))).figures[name] == pytest.approx(expected)
    accumulator = MetricAccumulator(classes)
    for chosen in torch.arange(samples).split(7):
        accumulator.count(logits[chosen], labels[chosen])
        losses = torch.nn.functional.cross_entropy(logits[chosen].double(), labels[chosen], reduction="sum")
        accumulator.loss_sum += losses.item()
    assert accumulator.figures()[name] == pytest.approx(expected)


def test_the_option_offers_the_metrics_of_the_table() -> None:
    assert tuple(METRICS) == METRIC_NAMES


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_named_compared_and_written(name: str) -> None:
    metric = METRICS[name]
    low, high = dict.fromkeys(METRICS, 0.25), dict.fromkeys(METRICS, 0.25) | {name: 0.75}
    assert better(name, high, low) is metric.larger_is_better
    assert better(name, low, high) is not metric.larger_is_better
    assert (metric.objective(0.75) > metric.objective(0.25)) is metric.larger_is_better
    row = EpochRow(1, 1, 0.1, {"loss": 1.0, "accuracy": 0.5}, low, 0.1, {"images_per_second": 2.0})
    assert row.to_dict()[f"val_{name}"] == 0.25 and EpochRow.from_dict(row.to_dict()) == row
    assert metric.label and metric.about and metric.text(0.5) == "0.5000" and metric.text(None) == ""


def test_a_tally_is_exact_over_any_division_and_through_a_checkpoint() -> None:
    logits, labels = random_case(4, 101, seed=9)
    whole = MetricAccumulator(4)
    whole.add(logits, labels, torch.nn.functional.cross_entropy(logits, labels).item(), 101)
    parts = MetricAccumulator(4)
    for chosen in torch.arange(101).split(7):
        mean = torch.nn.functional.cross_entropy(logits[chosen], labels[chosen]).item()
        parts.add(logits[chosen], labels[chosen], mean, len(chosen))
        parts = MetricAccumulator.from_dict(parts.to_dict())
    assert parts.training_figures()["accuracy"] == whole.training_figures()["accuracy"]
    assert parts.figures()["macro_f1"] == whole.figures()["macro_f1"]
    assert parts.figures()["loss"] == pytest.approx(whole.figures()["loss"], abs=1e-6)
    evaluation = evaluate_logits(logits, labels, tuple("abcd"))
    assert whole.figures()["accuracy"] == evaluation.figures["accuracy"]
    assert whole.figures()["macro_f1"] == pytest.approx(evaluation.figures["macro_f1"])


def test_figures_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    found = evaluate_logits(logits, labels, ("no", "yes"))
    assert found.confusion.matrix().tolist() == [[2, 0], [1, 1]]
    assert found.precision.tolist() == [pytest.approx(2 / 3), 1.0]
    assert found.recall.tolist() == [1.0, 0.5]
    assert found.f1.tolist() == [pytest.approx(0.8), pytest.approx(2 / 3)]
    right, wrong = np.log(1 + np.exp(-2)), np.log(1 + np.exp(2))
    assert found.figures["loss"] == pytest.approx((3 * right + wrong) / 4)


@pytest.mark.parametrize(
    ("correct", "samples", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (900, 1000, 0.8799, 0.9171),
        (0, 0, 0.0, 1.0),
    ],
)
def test_the_interval_of_wilson(correct: int, samples: int, low: float, high: float) -> None:
    assert wilson_interval(correct, samples) == pytest.approx((low, high), abs=1e-4)


def test_calibration_error_by_hand() -> None:
    # Two bins of 15: (0.6, 0.667] with confidence 0.65 and half right, (0.933, 1] with 0.99 and all right.
    confidence = np.array([0.65, 0.65, 0.99, 0.99, 0.99, 0.99])
    correct = np.array([True, False, True, True, True, True])
    assert calibrate(confidence, correct).error == pytest.approx((2 * 0.15 + 4 * 0.01) / 6)
    assert calibrate(np.array([]), np.array([], dtype=bool)).error == 0.0
    assert calibrate(np.array([1.0, 0.0]), np.array([True, False])).error == 0.0


def test_better_prefers_the_metric_then_the_smaller_loss() -> None:
    old = {"loss": 0.5, "accuracy": 0.9, "macro_f1": 0.8}
    assert better("accuracy", old, None)
    assert better("accuracy", {**old, "accuracy": 0.91, "loss": 9.0}, old)
    assert better("accuracy", {**old, "loss": 0.4}, old)
    assert not better("accuracy", old, old)
    assert better("loss", {**old, "loss": 0.4, "accuracy": 0.1}, old)
    assert not better("macro_f1", {**old, "macro_f1": 0.7, "loss": 0.1}, old)


def test_what_is_no_number_is_never_best() -> None:
    good, bad = {"accuracy": 0.5, "loss": 1.0}, {"accuracy": 0.5, "loss": float("nan")}
    assert better("accuracy", good, None)
    for metric in ("accuracy", "loss"):
        assert not better(metric, bad, None) and not better(metric, bad, good)
    assert not better("accuracy", {"accuracy": float("nan"), "loss": 0.1}, good)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_predictions_do_not_depend_on_the_batches(batch_size: int) -> None:
    logits, labels = random_case(600, 64, seed=3)
    pairs = zip(logits.split(batch_size), labels.split(batch_size), strict=True)
    module = torch.nn.Linear(600, 600, bias=False)
    torch.nn.init.eye_(module.weight)
    found = predict_all(module, ((x, y, len(y)) for x, y in pairs), 64)
    expected = predictions_from_logits(logits, labels)
    for name in ("labels", "predicted", "confidence", "losses"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype
