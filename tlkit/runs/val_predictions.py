"""Predictions of the best epoch on the validation images: collected during validation, or computed at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from tlkit.errors import TlkitError
from tlkit.files.run_folder import RunFolder
from tlkit.reports.val_predictions_file import read_validation, write_validation
from tlkit.runs.batches import PreparedBatches, labels_of
from tlkit.terminal import log_status
from tlkit.training.evaluation import Predictions
from tlkit.training.loop import TrainingObserver
from tlkit.training.predictions import predict_all, predictions_from_logits
from tlkit.training.state import TrainingState


class LogitCollector(TrainingObserver):
    """Collects validation logits by a forward hook, on every rank, and saves those of the best epoch on rank 0.

    run: where to save them; None to save nothing. logits: of this rank's batches since it last trained.
    """

    def __init__(self, batches: PreparedBatches, run: RunFolder | None) -> None:
        self.batches = batches
        self.run = run
        self.logits: list[Tensor] = []

    def collect(self, module: nn.Module, inputs: object, logits: Tensor) -> None:
        """The forward hook."""
        if module.training:
            self.logits.clear()
        else:
            self.logits.append(logits.detach().float().cpu())

    def after_epoch(self, state: TrainingState, is_best: bool) -> None:
        """Save the logits before the epoch's checkpoint: if the process is killed in between, the epoch is repeated
        and gives the same predictions."""
        logits = self.gathered(is_best)
        if logits is not None and self.run is not None:
            labels = labels_of(self.batches.dataset.val)
            save_predictions(self.run, self.batches, state.epoch, predictions_from_logits(logits, labels))

    def gathered(self, is_best: bool) -> Tensor | None:
        """On rank 0, after the best epoch so far, the logits [N, C] of all validation images in order; else None.

        All ranks call this together. None too where the head trains on features.
        """
        classes, count, world = len(self.batches.dataset.classes), len(self.batches.dataset.val), self.batches.world
        own = torch.cat([torch.empty(0, classes), *self.logits])
        self.logits.clear()
        if not (is_best and self.batches.of_images):
            return None
        indices = torch.split(torch.arange(count), self.batches.val_batch_size)
        expected = sum(map(len, indices[world.rank :: world.size]))
        # A batch that ran out of memory passes the hook again, in parts.
        if world.all_reduce_sum(torch.tensor(int(len(own) != expected))).item():
            return None
        logits = torch.empty(count, classes)
        for rank, start, rows in world.gather_rows(own):
            places = torch.cat(indices[rank :: world.size])
            logits[places[start : start + len(rows)]] = rows
        return logits if world.is_first else None


@contextmanager
def collecting_logits(batches: PreparedBatches, run: RunFolder | None) -> Iterator[LogitCollector]:
    """Collect logits inside the block, where a second pass over the validation images would take long."""
    collector = LogitCollector(batches, run)
    if not batches.of_images:
        yield collector
        return
    hook = batches.module.register_forward_hook(collector.collect)
    try:
        yield collector
    finally:
        hook.remove()


def save_val_predictions(run: RunFolder, batches: PreparedBatches, epoch: int) -> None:
    """Compute and save the predictions of the module, which holds the best epoch, unless they were collected."""
    with suppress(TlkitError):
        saved = read_validation(run, batches.dataset.classes)
        if saved is not None and saved.epoch == epoch and batches.of_images:
            return
    if batches.world.size > 1:  # the other ranks have finished
        log_status("warning", f"the predictions of epoch {epoch} are missing; the report will not show them")
        return
    save_predictions(run, batches, epoch, predict_all(batches.module, batches.val.epoch(0), len(batches.dataset.val)))


def save_predictions(run: RunFolder, batches: PreparedBatches, epoch: int, predictions: Predictions) -> None:
    """Write validation.jsonl. Only the report needs it, so an error is a warning."""
    dataset = batches.dataset
    try:
        write_validation(run, epoch, dataset.root, dataset.val, dataset.classes, predictions)
    except TlkitError as error:
        log_status("warning", f"{error}; the report will not show predictions")
