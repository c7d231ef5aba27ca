"""The best epoch's answers on the validation images, written down: heard in its own validation, or asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from tlkit.errors import TlkitError
from tlkit.files.run_folder import RunFolder
from tlkit.reports.val_predictions_file import read_validation, write_validation
from tlkit.runs.batches import PreparedBatches, labels_of
from tlkit.terminal import log_status
from tlkit.training.evaluation import Predictions
from tlkit.training.predictions import predict_all, predictions_from_logits


class LogitCollector:
    """Hears what the module says in validation. logits: of this rank's batches since it last trained."""

    def __init__(self, images: PreparedBatches) -> None:
        self.images = images
        self.logits: list[Tensor] = []

    def collect(self, module: nn.Module, inputs: Any, logits: Tensor) -> None:
        """What torch calls after each pass."""
        if module.training:
            self.logits.clear()
        else:
            self.logits.append(logits.detach().float().cpu())

    def collected(self, everything: bool) -> Tensor | None:
        """At the first rank with `everything`, what was said of the validation images [N, C], in their order; of
        vectors nothing. All ranks ask this when an epoch is done."""
        classes, count, world = len(self.images.dataset.classes), len(self.images.dataset.val), self.images.world
        mine = torch.cat([torch.empty(0, classes), *self.logits])
        self.logits.clear()
        if not (everything and self.images.of_images):
            return None
        batches = torch.split(torch.arange(count), self.images.measured_together)
        own = sum(map(len, batches[world.rank :: world.size]))
        if world.all_reduce_sum(torch.tensor(int(len(mine) != own))).item():  # some passed twice, as memory was used up
            return None
        whole = torch.empty(count, classes)
        for rank, start, rows in world.gather_rows(mine):
            places = torch.cat(batches[rank :: world.size])
            whole[places[start : start + len(rows)]] = rows
        return whole if world.is_first else None


@contextmanager
def collecting_logits(images: PreparedBatches) -> Iterator[LogitCollector]:
    """Inside, hear what is said of images: where each pass costs, it is not made twice."""
    listener = LogitCollector(images)
    if not images.of_images:
        yield listener
        return
    hook = images.module.register_forward_hook(listener.collect)
    try:
        yield listener
    finally:
        hook.remove()


def save_collected(run: RunFolder, images: PreparedBatches, epoch: int, logits: Tensor) -> None:
    """Write down what was heard of the validation images, before the epoch's checkpoint: a kill between the two leaves
    answers that the epoch will give again."""
    save_predictions(run, images, epoch, predictions_from_logits(logits, labels_of(images.dataset.val)))


def save_val_predictions(run: RunFolder, images: PreparedBatches, epoch: int) -> None:
    """Write down what the module, as the best epoch left it, answers, unless that was heard and written."""
    with suppress(TlkitError):
        known = read_validation(run, images.dataset.classes)
        if known is not None and known.epoch == epoch and images.of_images:
            return
    if images.world.size > 1:  # the others have gone
        log_status("warning", f"what epoch {epoch} said of each image is not here any more; the report will lack it")
        return
    save_predictions(run, images, epoch, predict_all(images.module, images.val.epoch(0)))


def save_predictions(run: RunFolder, images: PreparedBatches, epoch: int, answers: Predictions) -> None:
    """A report needs them, the run does not: that they cannot be written stops nothing."""
    dataset = images.dataset
    try:
        write_validation(run, epoch, dataset.root, dataset.val, dataset.classes, answers)
    except TlkitError as error:
        log_status("warning", f"{error}; the report will lack what was said of each image")
