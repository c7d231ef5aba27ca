"""TrainingState: everything that resume restores, in one visible list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch

from tlkit.training.accumulator import MetricAccumulator


class Trainable(Protocol):
    """The part of a classifier that a checkpoint holds."""

    def trainable_state(self) -> dict[str, torch.Tensor]: ...

    def load_trainable_state(self, state: Mapping[str, torch.Tensor]) -> None: ...


@dataclass
class TrainingState:
    """Where training stands. Order, augmentation, dropout and learning rate follow from the step.

    epoch: whole epochs done. step: optimizer steps done. step_in_epoch and tally: how far into the next epoch,
    and what its steps added up to; 0 and None between epochs.
    history: a row for each whole epoch. best: the row of the best epoch so far.
    scaler: keeps gradients within what fp16 can hold; does nothing in other precisions.
    micro_batch: samples that pass together at most, on each rank; None for all of a batch.
    """

    model: Trainable
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    tally: MetricAccumulator | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    scaler: torch.amp.GradScaler = field(default_factory=partial(torch.amp.GradScaler, enabled=False))
    micro_batch: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain types, as a checkpoint holds them."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "model_state_dict": self.model.trainable_state(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scaler_state_dict": self.scaler.state_dict(),
            "progress": {
                "step_in_epoch": self.step_in_epoch,
                "tally": self.tally.to_dict() if self.tally else None,
                "history": self.history,
                "best": self.best,
                "micro_batch": self.micro_batch,
            },
        }

    def is_finite(self) -> bool:
        """Whether every number that training has made is one: parameters, and what the optimizer keeps of them."""
        kept = [value for values in self.optimizer.state.values() for value in values.values()]
        made = [*self.model.trainable_state().values(), *(value for value in kept if isinstance(value, torch.Tensor))]
        return all(bool(tensor.isfinite().all()) for tensor in made if tensor.is_floating_point())

    def where(self) -> dict[str, Any]:
        """epoch, step, best and micro_batch, for scripts."""
        return {"epoch": self.epoch, "step": self.step, "best": self.best, "micro_batch": self.micro_batch}

    def load(self, values: Mapping[str, Any]) -> None:
        """Stand where a checkpoint stood."""
        self.model.load_trainable_state(values["model_state_dict"])
        self.optimizer.load_state_dict(values["optimizer_state_dict"])
        if values.get("scaler_state_dict"):  # of other precisions, and of older versions, it is empty
            self.scaler.load_state_dict(values["scaler_state_dict"])
        progress = values["progress"]
        self.micro_batch = progress.get("micro_batch") or self.micro_batch
        self.epoch, self.step, self.step_in_epoch = values["epoch"], values["step"], progress["step_in_epoch"]
        self.tally = MetricAccumulator.from_dict(progress["tally"]) if progress["tally"] else None
        self.history, self.best = list(progress["history"]), progress["best"]
