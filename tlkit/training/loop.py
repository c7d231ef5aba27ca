"""The training loop: epochs and steps, evaluation, early stopping. Features and images are the same to it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from tlkit.devices.memory import ChunkedForward
from tlkit.distributed.world import SINGLE_PROCESS, World
from tlkit.errors import DataError
from tlkit.options import FinetuneOptions
from tlkit.training.accumulator import MetricAccumulator
from tlkit.training.batch_norm import LocalBatchNorm, SynchronizedBatchNorm
from tlkit.training.history import EpochRow
from tlkit.training.metrics import better
from tlkit.training.objective import mean_loss
from tlkit.training.optimizer import learning_rate_at
from tlkit.training.state import TrainingState
from tlkit.training.step import Stepper

Batch = tuple[Tensor, Tensor, int, Tensor | None]
"""One step: this rank's inputs [S, ...] and labels [S], the number of samples of all ranks, and weights [S] if any."""


class Batches(Protocol):
    """Batches of samples, and each rank's share of them. They depend on the epoch and nothing else."""

    @property
    def steps_per_epoch(self) -> int: ...

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The steps from first_step to the end of the epoch."""


class TrainingObserver:
    """Receives the state after each step and each epoch. The methods of this base class do nothing."""

    def after_step(self, state: TrainingState) -> None:
        """Called after an optimizer step, often inside an epoch. Must not change the state."""

    def after_epoch(self, state: TrainingState, is_best: bool) -> None:
        """Called after an epoch; is_best: whether it is the best so far. May raise StopTraining."""


class StopTraining(Exception):  # noqa: N818 - not an error
    """Raised by an observer to end training after the current epoch."""


class NonFiniteLossError(DataError):
    """The loss or the parameters are NaN or infinite. Raised before such values are saved.

    epoch, step_in_epoch: the position of the batch, counted from 0; step_in_epoch is None after the epoch's last step.
    """

    code = "nonfinite_loss"

    def __init__(self, state: TrainingState, problem: str, step: int, step_in_epoch: int | None) -> None:
        subject = f"epoch {state.epoch + 1}, step {step}"
        super().__init__(subject, problem, "Start a new run with a smaller --learning-rate.")
        self.epoch, self.step_in_epoch = state.epoch, step_in_epoch
        self.files: list[str] = []

    def name_files(self, files: list[str]) -> None:
        """Add the files of the batch, which the loop does not know, to the message."""
        self.files = files
        self.listed = [f"in the batch: {file}" for file in files]


@dataclass(frozen=True)
class Trainer:
    """A module, its batches, and how to train it.

    state: where training starts; updated as it goes. class_weights [C]: factors of the classes in the training loss.
    device: where inputs go. world: the ranks that train together, each on its share of the same batches.
    """

    module: nn.Module
    state: TrainingState
    train_batches: Batches
    val_batches: Batches
    options: FinetuneOptions
    class_weights: Tensor
    device: torch.device
    world: World = SINGLE_PROCESS

    def train(self, observers: Sequence[TrainingObserver] = ()) -> None:
        """Train until all epochs are done or patience is exhausted. observers: called in this order.

        Batches may raise an exception to stop; between two of them the state is complete. All ranks call this
        together and get the same figures. Raises NonFiniteLossError.
        """
        self.world.broadcast_parameters(self.module)
        state, options = self.state, self.options
        weights, one_part = self.class_weights.to(self.device), options.sync_batchnorm and self.world.size > 1
        stepper = Stepper(self.module, state, weights, options, self.device, self.world, one_part)
        batch_norm = SynchronizedBatchNorm(self.world) if options.sync_batchnorm else LocalBatchNorm(self.module)
        while not is_over(state.epoch, state.best, options):
            started = time.monotonic()
            with batch_norm:
                trained = self.train_epoch(stepper, observers, batch_norm)
            self.world.broadcast_buffers(self.module)
            measured = evaluate(self.module, self.val_batches, len(self.class_weights), self.device, self.world)
            if not (state.is_finite() and math.isfinite(measured.figures()["loss"])):
                problem = "the parameters or the validation loss are not finite"
                raise NonFiniteLossError(state, problem, state.step, None)
            self.complete_epoch(trained, measured, time.monotonic() - started)
            try:
                for observer in observers:
                    observer.after_epoch(state, is_best=state.best is state.history[-1])
            except StopTraining:
                return

    def train_epoch(
        self,
        stepper: Stepper,
        observers: Sequence[TrainingObserver],
        batch_norm: LocalBatchNorm | SynchronizedBatchNorm,
    ) -> MetricAccumulator:
        """Train the rest of the current epoch. Returns the training figures of the whole epoch."""
        state = self.state
        self.module.train()
        state.tally = state.tally or MetricAccumulator(len(self.class_weights))
        for inputs, labels, total, weights in self.train_batches.epoch(state.epoch, state.step_in_epoch):
            rate = self.learning_rate(state.step)
            batch_norm.counts = bool((labels >= 0).any())  # otherwise this rank's share is only padding
            logits, loss = stepper.gradients(inputs, labels, total, state.step, weights)
            if not math.isfinite(loss):
                problem = f"the loss is {loss} at learning rate {rate:.3g}"
                raise NonFiniteLossError(state, problem, state.step + 1, state.step_in_epoch)
            stepper.update(rate)
            state.met_one_value = batch_norm.met_one_value
            state.tally.add(logits, labels.to(self.device), loss, total, self.world)
            state.step += 1
            state.step_in_epoch += 1
            for observer in observers:
                observer.after_step(state)
        return state.tally

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return learning_rate_at(step, self.train_batches.steps_per_epoch, self.options)

    def complete_epoch(self, trained: MetricAccumulator, measured: MetricAccumulator, seconds: float) -> None:
        """Append the epoch's row to the history, update the best epoch, and move to the start of the next one."""
        state = self.state
        state.epoch += 1
        row = EpochRow(
            epoch=state.epoch,
            step=state.step,
            learning_rate=self.learning_rate(state.step - 1),
            train=trained.training_figures(),
            val=measured.figures(),
            seconds=round(seconds, 3),
        )
        state.history.append(row)
        if better(self.options.metric, row.val, state.best.val if state.best is not None else None):
            state.best = row
        state.step_in_epoch, state.tally = 0, None


def is_over(epoch: int, best: EpochRow | None, options: FinetuneOptions) -> bool:
    """Whether all epochs are done, or --patience epochs have passed since the best one."""
    patience = options.patience
    out_of_patience = patience is not None and best is not None and epoch - best.epoch >= patience
    return epoch >= options.planned_epochs() or out_of_patience


@torch.no_grad()
def evaluate(
    module: nn.Module, batches: Batches, classes: int, device: torch.device, world: World = SINGLE_PROCESS
) -> MetricAccumulator:
    """Measure a module on all samples of the batches: the loss without weights, and counts.

    Each batch is computed by one rank, and losses are summed in the order of the batches. So the figures do not depend
    on the number of ranks, as long as all of them compute the same logits.
    """
    module.eval()
    tally, forward = MetricAccumulator(classes), ChunkedForward(lambda inputs: module(inputs.to(device)))
    losses = torch.zeros(batches.steps_per_epoch, world.size, dtype=torch.float64)
    for step, (inputs, labels, count, _) in enumerate(batches.epoch(0)):
        if count:
            labels = labels.to(device)
            logits = forward(inputs)
            tally.count(logits, labels)
            losses[step, world.rank] = mean_loss(logits, labels) * count
    tally.all_reduce(world)
    tally.loss_sum = sum(world.all_reduce_sum(losses).flatten().tolist(), 0.0)
    return tally
