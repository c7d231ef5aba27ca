"""TrainingState: everything that resume restores, in one list of fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypedDict

import torch

from tlkit.training.accumulator import MetricAccumulator
from tlkit.training.history import EpochRow


class Trainable(Protocol):
    """The part of a classifier that a checkpoint holds."""

    def trainable_state(self) -> dict[str, torch.Tensor]: ...

    def load_trainable_state(self, state: Mapping[str, torch.Tensor]) -> None: ...


class Where(TypedDict):
    """Where training stands, for status.json. best: the best epoch, as a line of history.jsonl."""

    epoch: int
    step: int
    best: dict[str, float] | None
    micro_batch: int | None


@dataclass
class TrainingState:
    """Where training stands. Sample order, augmentation, dropout and learning rate are functions of the step.

    epoch: finished epochs. step: optimizer steps. step_in_epoch, tally: steps of the current epoch, and the sums of
    their metrics; 0 and None between epochs.
    history: a row for each finished epoch. best: the row of the best one.
    scaler: gradient scaler for fp16; disabled in other precisions.
    micro_batch: largest number of samples in one forward pass on each rank; None for the whole batch.
    met_one_value: whether BatchNorm layers have used their running statistics, see LocalBatchNorm; not stored.
    """

    model: Trainable
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    tally: MetricAccumulator | None = None
    history: list[EpochRow] = field(default_factory=list)
    best: EpochRow | None = None
    scaler: torch.amp.GradScaler = field(default_factory=partial(torch.amp.GradScaler, enabled=False))
    micro_batch: int | None = None
    met_one_value: bool = False

    def to_dict(self) -> dict[str, object]:
        """The keys of a checkpoint: tensors and plain types."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "model_state_dict": self.model.trainable_state(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scaler_state_dict": self.scaler.state_dict(),
            "progress": {
                "step_in_epoch": self.step_in_epoch,
                "tally": self.tally.to_dict() if self.tally else None,
                "history": [row.to_dict() for row in self.history],
                "best": self.best.to_dict() if self.best else None,
                "micro_batch": self.micro_batch,
            },
        }

    def load(self, values: Mapping[str, Any]) -> None:
        """Take over the values of a checkpoint."""
        self.model.load_trainable_state(values["model_state_dict"])
        self.optimizer.load_state_dict(values["optimizer_state_dict"])
        if values.get("scaler_state_dict"):  # empty in other precisions, missing in checkpoints of version 0.1
            self.scaler.load_state_dict(values["scaler_state_dict"])
        progress = values["progress"]
        self.micro_batch = progress.get("micro_batch") or self.micro_batch
        self.epoch, self.step, self.step_in_epoch = values["epoch"], values["step"], progress["step_in_epoch"]
        self.tally = MetricAccumulator.from_dict(progress["tally"]) if progress["tally"] else None
        self.history = [EpochRow.from_dict(row) for row in progress["history"]]
        self.best = EpochRow.from_dict(progress["best"]) if progress["best"] else None

    def is_finite(self) -> bool:
        """Whether all trained parameters and all optimizer statistics are finite."""
        kept = [value for values in self.optimizer.state.values() for value in values.values()]
        made = [*self.model.trainable_state().values(), *(value for value in kept if isinstance(value, torch.Tensor))]
        return all(bool(tensor.isfinite().all()) for tensor in made if tensor.is_floating_point())

    def where(self) -> Where:
        """epoch, step, best and micro_batch for status.json."""
        best = self.best.to_dict() if self.best else None
        return {"epoch": self.epoch, "step": self.step, "best": best, "micro_batch": self.micro_batch}
