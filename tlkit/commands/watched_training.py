"""The training loop as a run drives it: saved, said, stopped by a signal, and told of images when it goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tlkit.commands.checkpoints import Checkpointer
from tlkit.commands.conduct import Conduct
from tlkit.commands.images import PreparedBatches
from tlkit.data.batches import EpochSteps
from tlkit.data.folder import Dataset
from tlkit.errors import TlkitError
from tlkit.interruption import Interrupted, Interruption
from tlkit.model.head import Head
from tlkit.options import FinetuneOptions
from tlkit.run_folder import RunFolder
from tlkit.terminal import say
from tlkit.training.loop import NonFiniteLossError, Recipe, is_over, train
from tlkit.training.state import TrainingState

SMALL_STEP = 1 << 24
"""Multiplications of a step that one thread does as fast as several."""


def train_to_the_end(
    run: RunFolder,
    options: FinetuneOptions,
    images: PreparedBatches,
    state: TrainingState,
    checkpointer: Checkpointer,
    device: torch.device,
    signals: Interruption,
    conduct: Conduct,
) -> None:
    """Run the training loop; every epoch is committed and said, a signal ends it with a checkpoint."""

    def after_epoch(state: TrainingState, is_best: bool) -> None:
        over = is_over(state.epoch, state.best, options.planned_epochs(), options.patience)
        if is_best or over or conduct.saves(state):
            checkpointer.commit_epoch(state, is_best)
            run.write_status("running", **state.where())
        say_epoch(state, options.planned_epochs(), is_best)
        conduct.after_epoch(state)

    def after_step(state: TrainingState) -> None:
        if checkpointer.is_due():
            checkpointer.commit_last(state)
            run.write_status("running", **state.where())

    recipe = recipe_of(options)
    weights = class_weights(options.class_weights, images.dataset)
    with signals.deferred("saving a checkpoint"), few_threads(images.module, options.batch_size):
        try:
            train(images.module, state, images.train, images.val, recipe, weights, device, after_epoch, after_step)
        except NonFiniteLossError as error:
            error.name_files(batch_files(options, images.dataset, error))
            raise
        except Interrupted:
            save_before_leaving(checkpointer, state)
            raise


def recipe_of(options: FinetuneOptions) -> Recipe:
    """How to train, as the loop takes it."""
    return Recipe(
        epochs=options.planned_epochs(),
        learning_rate=options.learning_rate,
        schedule=options.schedule,
        label_smoothing=options.label_smoothing,
        metric=options.metric,
        patience=options.patience,
        seed=options.seed,
    )


def batch_files(options: FinetuneOptions, dataset: Dataset, error: NonFiniteLossError) -> list[str]:
    """The images of the batch whose loss was no number: they follow from where it stands."""
    if error.step_in_epoch is None:
        return []
    labels = torch.tensor([sample.label for sample in dataset.train])
    steps = EpochSteps(labels, options.batch_size, options.seed).indices(error.epoch, error.step_in_epoch)
    return [dataset.train[index].path for index in next(steps).tolist()]


def save_before_leaving(checkpointer: Checkpointer, state: TrainingState) -> None:
    """A last checkpoint; where that cannot be written, the one before it must do."""
    try:
        checkpointer.commit_last(state)
    except TlkitError as error:
        say("warning", f"{error}; the run will go on from the checkpoint before")


@contextmanager
def few_threads(module: nn.Module, batch_size: int) -> Iterator[None]:
    """One thread for a head's steps, where they are so small that two would wait for each other longer than they work.

    On a machine with other work to do, waiting makes such a step a hundred times slower.
    """
    before = torch.get_num_threads()
    multiplications = batch_size * sum(parameter.numel() for parameter in module.parameters())
    if isinstance(module, Head) and multiplications <= SMALL_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def class_weights(kind: str, dataset: Dataset) -> torch.Tensor:
    """Factors [C] of each class in the training loss: ones, or inverse to its images, one on average over images."""
    counts = torch.bincount(torch.tensor([s.label for s in dataset.train]), minlength=len(dataset.classes))
    if kind == "none":
        return torch.ones(len(counts))
    return len(dataset.train) / (len(counts) * counts.clamp_min(1).float())


def say_epoch(state: TrainingState, epochs: int, is_best: bool) -> None:
    """One line for an epoch. Of quick epochs, those that are best so far, every tenth and the last are said."""
    row = state.history[-1]
    if not (is_best or state.epoch % 10 == 0 or state.epoch == epochs or row["seconds"] > 1):
        return
    figures = (
        f"train loss {row['train_loss']:.4f}  val loss {row['val_loss']:.4f}  "
        f"accuracy {row['val_accuracy']:.4f}  macro F1 {row['val_macro_f1']:.4f}"
    )
    say("epoch", f"{row['epoch']:>{len(str(epochs))}}/{epochs}  {figures}{'  best' if is_best else ''}")
