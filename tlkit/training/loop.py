"""Epochs and steps: forward, backward, step, count, evaluate, stop. Vectors and images are the same to it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tlkit.devices.memory import ChunkedForward
from tlkit.distributed.world import SINGLE_PROCESS, World
from tlkit.errors import DataError
from tlkit.training.accumulator import MetricAccumulator
from tlkit.training.batch_norm import LocalBatchNorm, SynchronizedBatchNorm
from tlkit.training.metrics import better, history_figures, validation_figures
from tlkit.training.objective import mean_loss
from tlkit.training.optimizer import learning_rate_at
from tlkit.training.state import TrainingState
from tlkit.training.step import Stepper


class Batches(Protocol):
    """A division of the samples into batches, and of these among ranks, that depends on nothing but the epoch."""

    @property
    def steps_per_epoch(self) -> int: ...

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Of each step this rank's share, inputs [S, ...] and labels [S], and how many samples it has on all ranks."""


@dataclass(frozen=True)
class Recipe:
    """How to train: what the user chose, as values."""

    epochs: int
    learning_rate: float
    schedule: str
    label_smoothing: float
    metric: str
    patience: int | None
    seed: int


AfterEpoch = Callable[[TrainingState, bool], None]
"""What happens when an epoch is done: given the state, and whether the epoch is the best so far."""


AfterStep = Callable[[TrainingState], None]
"""What happens when a step is done, whose epoch may not be: the state is whole, and must be left as it is."""


class StopTraining(Exception):  # noqa: N818 - nothing went wrong
    """Whoever watches the epochs wants no further one: training ends with the epoch that is done, in good order."""


class NonFiniteLossError(DataError):
    """Training has left the numbers: it ends before anything of that is saved.

    epoch and step_in_epoch: where the batch stands that was to be trained on, counted from 0; step_in_epoch is None
    where the epoch's steps are done and the whole of it went wrong.
    """

    code = "nonfinite_loss"

    def __init__(self, state: TrainingState, problem: str, step: int, step_in_epoch: int | None) -> None:
        subject = f"epoch {state.epoch + 1}, step {step}"
        super().__init__(subject, problem, "Try a smaller --learning-rate in a new run.")
        self.epoch, self.step_in_epoch = state.epoch, step_in_epoch
        self.files: list[str] = []

    def name_files(self, files: list[str]) -> None:
        """Say what the batch was made of, which the loop does not know."""
        self.files = files
        if files:
            self.hint = "\n".join([self.hint, "The batch:", *(f"  {file}" for file in files)])


def train(
    module: nn.Module,
    state: TrainingState,
    train_batches: Batches,
    val_batches: Batches,
    recipe: Recipe,
    class_weights: Tensor,
    device: torch.device,
    after_epoch: AfterEpoch,
    after_step: AfterStep,
    world: World = SINGLE_PROCESS,
    sync_batchnorm: bool = False,
) -> None:
    """Train from where the state stands until the epochs are done or patience is at its end.

    class_weights [C]: factors of each class in the training loss. Batches may raise to stop: between two of
    them the state is whole. Raises NonFiniteLossError when the loss stops being a number. All ranks of the world run
    this together, and all see the same figures; their batches are shares of the same ones.
    """
    world.broadcast_parameters(module)
    weights, in_one_part = class_weights.to(device), sync_batchnorm and world.size > 1
    stepper = Stepper(
        module, state, weights, recipe.label_smoothing, recipe.seed, device, world, in_one_part=in_one_part
    )
    batch_norm = SynchronizedBatchNorm(world) if sync_batchnorm else LocalBatchNorm()
    while not finished(state, recipe):
        started = time.monotonic()
        with batch_norm:
            trained = train_epoch(stepper, state, train_batches, recipe, after_step, batch_norm)
        world.broadcast_buffers(module)
        measured = evaluate(module, val_batches, len(class_weights), device, world)
        if not (state.is_finite() and math.isfinite(measured.figures()["loss"])):
            problem = "the parameters or the validation loss are no numbers any more"
            raise NonFiniteLossError(state, problem, state.step, None)
        complete_epoch(state, recipe, trained, measured, time.monotonic() - started, train_batches.steps_per_epoch)
        try:
            after_epoch(state, state.best is state.history[-1])
        except StopTraining:
            return


def finished(state: TrainingState, recipe: Recipe) -> bool:
    """Whether no epoch is left to train."""
    return is_over(state.epoch, state.best, recipe.epochs, recipe.patience)


def is_over(epoch: int, best: Mapping[str, Any] | None, epochs: int, patience: int | None) -> bool:
    """Whether all epochs are done, or `patience` of them have passed since the best one."""
    out_of_patience = patience is not None and best is not None and epoch - best["epoch"] >= patience
    return epoch >= epochs or out_of_patience


def train_epoch(
    stepper: Stepper,
    state: TrainingState,
    batches: Batches,
    recipe: Recipe,
    after_step: AfterStep,
    batch_norm: LocalBatchNorm | SynchronizedBatchNorm,
) -> MetricAccumulator:
    """Train the rest of the epoch that the state is in. batch_norm: is told whether this rank's share has samples."""
    stepper.module.train()
    state.tally = state.tally or MetricAccumulator(len(stepper.class_weights))
    total_steps = recipe.epochs * batches.steps_per_epoch
    for inputs, labels, total in batches.epoch(state.epoch, state.step_in_epoch):
        rate = learning_rate_at(state.step, total_steps, recipe.learning_rate, recipe.schedule)
        batch_norm.counts = bool((labels >= 0).any())
        logits, loss = stepper.gradients(inputs, labels, total, state.step)
        if not math.isfinite(loss):
            problem = f"the loss is {loss} at learning rate {rate:.3g}"
            raise NonFiniteLossError(state, problem, state.step + 1, state.step_in_epoch)
        stepper.update(rate)
        state.tally.add(logits, labels.to(stepper.device), loss, stepper.world)
        state.step += 1
        state.step_in_epoch += 1
        after_step(state)
    return state.tally


@torch.no_grad()
def evaluate(
    module: nn.Module, batches: Batches, classes: int, device: torch.device, world: World = SINGLE_PROCESS
) -> MetricAccumulator:
    """Measure a module on all samples of batches, each once: the loss without weights, and counts.

    Each batch is one rank's whole, and losses are added up in the order of the batches: the figures are the same to the
    last bit however many ranks there are, where these compute the same logits.
    """
    module.eval()
    tally, passed = MetricAccumulator(classes), ChunkedForward(lambda inputs: module(inputs.to(device)))
    losses = torch.zeros(batches.steps_per_epoch, world.size, dtype=torch.float64)
    for step, (inputs, labels, count) in enumerate(batches.epoch(0)):
        if count:
            labels = labels.to(device)
            logits = passed(inputs)
            tally.count(logits, labels)
            losses[step, world.rank] = mean_loss(logits, labels) * count
    tally.all_reduce(world)
    tally.loss_sum = sum(world.all_reduce_sum(losses).flatten().tolist(), 0.0)
    return tally


def complete_epoch(
    state: TrainingState,
    recipe: Recipe,
    trained: MetricAccumulator,
    measured: MetricAccumulator,
    seconds: float,
    steps_per_epoch: int,
) -> None:
    """Write the epoch's row into the state, and step over to the next epoch."""
    done = trained.training_figures()
    state.epoch += 1
    row = {
        "epoch": state.epoch,
        "step": state.step,
        "learning_rate": learning_rate_at(
            state.step - 1, recipe.epochs * steps_per_epoch, recipe.learning_rate, recipe.schedule
        ),
        "train_loss": done["loss"],
        "train_accuracy": done["accuracy"],
        **history_figures(measured.figures()),
        "seconds": round(seconds, 3),
    }
    state.history.append(row)
    if better(recipe.metric, validation_figures(row), state.best and validation_figures(state.best)):
        state.best = row
    state.step_in_epoch, state.tally = 0, None
