"""The best epoch's answers on the validation images, written down: heard in its own validation, or asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from tlkit.commands.images import PreparedBatches, labels_of
from tlkit.commands.validation import read_validation, write_validation
from tlkit.errors import TlkitError
from tlkit.run_folder import RunFolder
from tlkit.terminal import say
from tlkit.training.answers import answers_from, ask
from tlkit.training.evaluation import Answers


class Listener:
    """Hears what a module says while it is validated. logits: of the batches since it began, or since `forget`."""

    def __init__(self) -> None:
        self.logits: list[Tensor] = []

    def hear(self, module: nn.Module, inputs: Any, logits: Tensor) -> None:
        """What torch calls after each pass."""
        if not module.training:
            self.logits.append(logits.detach().cpu())

    def forget(self) -> None:
        self.logits.clear()


@contextmanager
def listening(images: PreparedBatches) -> Iterator[Listener]:
    """Inside, hear what is said of images: where each pass costs, it is not made twice. Of vectors nothing is heard,
    nor where ranks share the images: each hears of its own only."""
    listener = Listener()
    if not images.of_images or images.world.size > 1:
        yield listener
        return
    hook = images.module.register_forward_hook(listener.hear)
    try:
        yield listener
    finally:
        hook.remove()


def keep_heard(run: RunFolder, images: PreparedBatches, listener: Listener, epoch: int) -> None:
    """Write down what was heard of the validation images, if that was all of them. An epoch that is the best so far
    is written down before its checkpoint: a kill between the two leaves answers that the epoch will give again."""
    heard = torch.cat(listener.logits) if listener.logits else torch.empty(0)
    if len(heard) == len(images.dataset.val):
        keep(run, images, epoch, answers_from(heard, labels_of(images.dataset.val)))


def keep_answers(run: RunFolder, images: PreparedBatches, epoch: int) -> None:
    """Write down what the module, as the best epoch left it, answers, unless that was heard and written."""
    with suppress(TlkitError):
        known = read_validation(run, images.dataset.classes)
        if known is not None and known.epoch == epoch and images.of_images:
            return
    keep(run, images, epoch, ask(images.module, images.whole_val.epoch(0)))


def keep(run: RunFolder, images: PreparedBatches, epoch: int, answers: Answers) -> None:
    """A report needs them, the run does not: that they cannot be written, or are not all here, stops nothing."""
    dataset = images.dataset
    if len(answers.labels) != len(dataset.val):
        say("warning", "the validation images are divided; the report will lack what was said of each")
        return
    try:
        write_validation(run, epoch, dataset.root, dataset.val, dataset.classes, answers)
    except TlkitError as error:
        say("warning", f"{error}; the report will lack what was said of each image")
