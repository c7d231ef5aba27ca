"""Epochs and steps: forward, backward, step, count, evaluate, stop. Vectors and images are the same to it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlkit.errors import DataError
from tlkit.training.metrics import Tally, better
from tlkit.training.optimizer import learning_rate_at
from tlkit.training.state import TrainingState


class Batches(Protocol):
    """A division of the samples into batches that depends on nothing but the epoch."""

    @property
    def steps_per_epoch(self) -> int: ...

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]: ...


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


def train(
    module: nn.Module,
    state: TrainingState,
    train_batches: Batches,
    val_batches: Batches,
    recipe: Recipe,
    class_weights: Tensor,
    device: torch.device,
    after_epoch: AfterEpoch,
) -> None:
    """Train from where the state stands until the epochs are done or patience is at its end.

    class_weights [C]: factors of each class in the training loss. Batches may raise to stop: between two of
    them the state is whole. Raises DataError when the loss stops being a number.
    """
    class_weights = class_weights.to(device)
    while not finished(state, recipe):
        started = time.monotonic()
        trained = train_epoch(module, state, train_batches, recipe, class_weights, device)
        measured = evaluate(module, val_batches, len(class_weights), device)
        if not (state.is_finite() and math.isfinite(measured.figures()["loss"])):
            raise diverged(state, "the parameters or the validation loss are no numbers any more")
        complete_epoch(state, recipe, trained, measured, time.monotonic() - started, train_batches.steps_per_epoch)
        after_epoch(state, state.best is state.history[-1])


def finished(state: TrainingState, recipe: Recipe) -> bool:
    """Whether no epoch is left to train."""
    return is_over(state.epoch, state.best["epoch"] if state.best else 0, recipe.epochs, recipe.patience)


def is_over(epoch: int, best_epoch: int, epochs: int, patience: int | None) -> bool:
    """Whether all epochs are done, or `patience` of them have passed since the best one."""
    return epoch >= epochs or (patience is not None and epoch - best_epoch >= patience)


def train_epoch(
    module: nn.Module,
    state: TrainingState,
    batches: Batches,
    recipe: Recipe,
    class_weights: Tensor,
    device: torch.device,
) -> Tally:
    """Train the rest of the epoch that the state is in."""
    module.train()
    state.tally = state.tally or Tally(len(class_weights))
    total_steps = recipe.epochs * batches.steps_per_epoch
    for inputs, labels in batches.epoch(state.epoch, state.step_in_epoch):
        rate = learning_rate_at(state.step, total_steps, recipe.learning_rate, recipe.schedule)
        for group in state.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        seed_dropout(recipe.seed, state.step)
        inputs, labels = inputs.to(device), labels.to(device)
        logits = module(inputs)  # [B, ...] -> [B, C]
        losses = F.cross_entropy(
            logits, labels, class_weights, reduction="none", label_smoothing=recipe.label_smoothing
        )
        loss = losses.mean()
        value = loss.item()
        if not math.isfinite(value):
            raise diverged(state, f"the loss is {value} at learning rate {rate:.3g}")
        state.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        state.tally.add(logits, labels, value)
        state.step += 1
        state.step_in_epoch += 1
    return state.tally


def diverged(state: TrainingState, problem: str) -> DataError:
    """The error that ends training before anything that is not a number is saved."""
    return DataError(
        f"epoch {state.epoch + 1}, step {state.step + 1}", problem, "Try a smaller --learning-rate in a new run."
    )


def seed_dropout(seed: int, step: int) -> None:
    """Make what is random inside a step a function of (seed, step)."""
    # default_generator costs microseconds where torch.manual_seed, which walks all CUDA devices, costs 200.
    mixed = (seed * 0x9E3779B97F4A7C15 + step) % 2**63
    torch.default_generator.manual_seed(mixed)
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(mixed)


@torch.no_grad()
def evaluate(module: nn.Module, batches: Batches, classes: int, device: torch.device) -> Tally:
    """Measure a module on all samples of batches: plain cross-entropy and counts."""
    module.eval()
    tally = Tally(classes)
    for inputs, labels in batches.epoch(0):
        inputs, labels = inputs.to(device), labels.to(device)
        logits = module(inputs)
        tally.add(logits, labels, F.cross_entropy(logits, labels).item())
    return tally


def complete_epoch(
    state: TrainingState,
    recipe: Recipe,
    trained: Tally,
    measured: Tally,
    seconds: float,
    steps_per_epoch: int,
) -> None:
    """Write the epoch's row into the state, and step over to the next epoch."""
    done, figures = trained.figures(), measured.figures()
    state.epoch += 1
    row = {
        "epoch": state.epoch,
        "step": state.step,
        "learning_rate": learning_rate_at(
            state.step - 1, recipe.epochs * steps_per_epoch, recipe.learning_rate, recipe.schedule
        ),
        "train_loss": done["loss"],
        "train_accuracy": done["accuracy"],
        "val_loss": figures["loss"],
        "val_accuracy": figures["accuracy"],
        "val_macro_f1": figures["macro_f1"],
        "seconds": round(seconds, 3),
    }
    state.history.append(row)
    if better(recipe.metric, validation_figures(row), state.best and validation_figures(state.best)):
        state.best = row
    state.step_in_epoch, state.tally = 0, None


def validation_figures(row: dict[str, float]) -> dict[str, float]:
    """loss, accuracy and macro_f1 on the validation images, from a row of history."""
    return {name: row[f"val_{name}"] for name in ("loss", "accuracy", "macro_f1")}
