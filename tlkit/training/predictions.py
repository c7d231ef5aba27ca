"""Logits become predictions and figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from tlkit.training.evaluation import Evaluation, Predictions, evaluate_predictions
from tlkit.training.metrics import Counts, figures_of
from tlkit.training.objective import labelled, log_probabilities

ROW = 5
"""Numbers in a row of `measured_rows`."""


def true_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the true one, int64 [N]; among equal scores the lower class number wins.

    logits [N, C], labels [N]
    """
    logits = logits.detach()
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return ((logits > own) | ((logits == own) & earlier)).sum(dim=1)


def predictions_from_logits(logits: Tensor, labels: Tensor) -> Predictions:
    """logits [N, C]; labels [N]"""
    scores = log_probabilities(logits)
    best, predicted = scores.max(dim=1)
    losses = -scores.gather(1, labels[:, None])[:, 0]
    return Predictions(*(tensor.cpu().numpy() for tensor in (labels, predicted, best.exp(), losses)))


def measured_rows(logits: Tensor, labels: Tensor) -> Tensor:
    """The figures of each sample that an evaluation needs of logits [N, C]: logits of many classes take gigabytes.

    Rows of label, predicted class, its probability, loss, and true rank: float64 [N, 5] on the CPU.
    """
    found = predictions_from_logits(logits, labels)
    columns = (found.labels, found.predicted, found.confidence, found.losses, true_ranks(logits, labels).cpu().numpy())
    return torch.from_numpy(np.stack([column.astype(np.float64) for column in columns], axis=1))


def predictions_of(rows: Tensor) -> Predictions:
    """The predictions of `measured_rows` [N, 5]."""
    labels, predicted, confidence, losses, _ = np.ascontiguousarray(rows.numpy().T)
    return Predictions(labels.astype(np.int64), predicted.astype(np.int64), confidence, losses)


def evaluate_rows(rows: Tensor, classes: tuple[str, ...]) -> Evaluation:
    """The evaluation of `measured_rows` of all samples [N, 5]."""
    predictions = predictions_of(rows)
    measured = evaluate_predictions(predictions, classes)
    counts = Counts(
        float(predictions.losses.sum()),
        measured.support,
        measured.confusion.predictions,
        measured.confusion.correct,
        np.bincount(rows[:, -1].long().numpy(), minlength=len(classes)),
    )
    return dataclasses.replace(measured, figures=figures_of(counts))


@torch.no_grad()
def predict_all(
    module: nn.Module, batches: Iterable[tuple[Tensor, Tensor, int, Tensor | None]], samples: int
) -> Predictions:
    """The predictions of a module for all samples of batches."""
    module.eval()
    device = next(module.parameters()).device
    # Allocated first: small results among large scores would keep the freed memory of the scores from being reused.
    rows, done = torch.empty(samples, ROW, dtype=torch.float64), 0
    for inputs, labels, *_ in batches:
        found = measured_rows(*labelled(module(inputs.to(device)), labels.to(device)))
        rows[done : done + len(found)] = found
        done += len(found)
    return predictions_of(rows[:done])
