"""The checkpoints of a run: written at every epoch, linked as best and last, old ones removed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tlkit.artifact import read_artifact, write_artifact
from tlkit.model.files import CHECKPOINT_FORMAT, ModelDescription
from tlkit.run_folder import RunFolder
from tlkit.storage import link_atomically
from tlkit.training.loop import validation_figures
from tlkit.training.state import TrainingState


@dataclass(frozen=True)
class Checkpointer:
    """Writes the checkpoints of one run. options: as given, plain types. split_sha256: of which image is where."""

    run: RunFolder
    options: Mapping[str, Any]
    description: ModelDescription
    split_sha256: str
    metric: str
    keep: int

    def commit_epoch(self, state: TrainingState, is_best: bool) -> None:
        """Write a finished epoch. `last` is moved after `best`, so a kill between them repeats the epoch."""
        shown = "accuracy" if self.metric == "loss" else self.metric
        row = state.history[-1]
        file = self.run.epoch_checkpoint(state.epoch, row["val_loss"], shown, row[f"val_{shown}"])
        self._write(file, state)
        if is_best:
            link_atomically(file, self.run.best_checkpoint)
        link_atomically(file, self.run.last_checkpoint)
        self.run.write_history(state.history)
        self._remove_old(state.epoch)

    def commit_last(self, state: TrainingState) -> None:
        """Write where training stands, which may be inside an epoch."""
        self._write(self.run.last_checkpoint, state)

    def _write(self, file: str, state: TrainingState) -> None:
        figures = validation_figures(state.history[-1]) if state.history else {}
        content = {
            **state.to_dict(),
            "loss": figures.get("loss"),
            "metrics": figures,
            **self.description.to_dict(),
            "options": dict(self.options),
            "split_sha256": self.split_sha256,
        }
        write_artifact(file, CHECKPOINT_FORMAT, content)

    def _remove_old(self, epoch: int) -> None:
        """Keep the newest `keep` whole epochs; best and last are names of their own and stay."""
        for file, written in self.run.epoch_checkpoints().items():
            if written <= epoch - self.keep or written > epoch:
                os.unlink(file)


def read_checkpoint(path: str) -> dict[str, Any]:
    """Open a checkpoint. Raises as read_artifact does."""
    return read_artifact(path, CHECKPOINT_FORMAT)
