"""Checkpoints of a run: written, linked as best and last, removed when old; and the newest undamaged one found."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Self

from tlkit.errors import DataError, MissingInputError, TlkitError, UnsafeError
from tlkit.files.artifact import read_artifact, write_artifact
from tlkit.files.atomic import link_atomically, remove
from tlkit.files.run_folder import RunFolder
from tlkit.model.files import CHECKPOINT_FORMAT, ModelDescription
from tlkit.terminal import log_status
from tlkit.training.history import EpochRow
from tlkit.training.state import TrainingState

TYPES: dict[str, tuple[type, ...]] = {
    "epoch": (int,),
    "step": (int,),
    "model_state_dict": (dict,),
    "optimizer_state_dict": (dict,),
    "progress": (dict,),
    "options": (dict,),
    "environment": (dict,),
    "classes": (list,),
    "backbone": (dict,),
    "split_sha256": (str,),
}
"""Required keys of a checkpoint."""

PROGRESS_TYPES: dict[str, tuple[type, ...]] = {
    "step_in_epoch": (int,),
    "tally": (dict, NoneType),
    "history": (list,),
    "best": (dict, NoneType),
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read from `path`.

    content: the whole file, tensors on the CPU. history, best: as typed rows; `best` replaces that of the content.
    options, environment: of the run that wrote it. split_sha256: identifies its images and their split.
    """

    path: str
    content: Mapping[str, Any]
    epoch: int
    step: int
    step_in_epoch: int
    history: tuple[EpochRow, ...]
    best: EpochRow | None
    options: Mapping[str, Any]
    environment: Mapping[str, Any]
    classes: list[str]
    split_sha256: str

    @classmethod
    def from_dict(cls, path: str, content: Mapping[str, Any]) -> Self:
        """Raises DataError naming path for content that is not a complete checkpoint."""
        require_types(path, content, TYPES)
        progress = content["progress"]
        require_types(path, progress, PROGRESS_TYPES)
        try:
            history = tuple(map(EpochRow.from_dict, progress["history"]))
            best = EpochRow.from_dict(progress["best"]) if progress["best"] is not None else None
        except ValueError as error:
            raise DataError(path, f"is not a complete checkpoint: {error}") from error
        if best is not None and best not in history:
            raise DataError(path, "is not a complete checkpoint: its best epoch is not in its history")
        names = ("epoch", "step", "options", "environment", "classes", "split_sha256")
        values = {name: content[name] for name in names}
        return cls(path, content, step_in_epoch=progress["step_in_epoch"], history=history, best=best, **values)

    def to_dict(self) -> dict[str, Any]:
        """The content of the file, with this `best`."""
        best = self.best.to_dict() if self.best is not None else None
        return {**self.content, "progress": {**self.content["progress"], "best": best}}

    def without_best(self) -> Self:
        return dataclasses.replace(self, best=None)

    def where(self) -> dict[str, Any]:
        """epoch, step, best and micro_batch for status.json."""
        best = self.best.to_dict() if self.best is not None else None
        micro_batch = self.content["progress"].get("micro_batch")
        return {"epoch": self.epoch, "step": self.step, "best": best, "micro_batch": micro_batch}

    @property
    def model_state(self) -> Mapping[str, Any]:
        """The trained tensors."""
        state: Mapping[str, Any] = self.content["model_state_dict"]
        return state


def require_types(path: str, values: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> None:
    """Raises DataError unless each value is there and has one of its types."""
    for name, kinds in types.items():
        if not isinstance(values.get(name, Ellipsis), kinds):
            raise DataError(path, f"is not a complete checkpoint: {name} is missing or not a {kinds[0].__name__}")


def read_checkpoint(path: str) -> Checkpoint:
    """Open a checkpoint. Raises as read_artifact does, and DataError for one that is not complete."""
    return Checkpoint.from_dict(path, read_artifact(path, CHECKPOINT_FORMAT))


def write_checkpoint(path: str, content: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically."""
    write_artifact(path, CHECKPOINT_FORMAT, content)


@dataclass(frozen=True)
class Origin:
    """The part of a checkpoint that is the same for a whole run. options, environment: plain types."""

    options: Mapping[str, Any]
    environment: Mapping[str, Any]
    description: ModelDescription
    split_sha256: str

    def to_dict(self) -> dict[str, Any]:
        """The keys of a checkpoint, plain types."""
        return {
            **self.description.to_dict(),
            "options": dict(self.options),
            "environment": dict(self.environment),
            "split_sha256": self.split_sha256,
        }


@dataclass
class Checkpointer:
    """Writes the checkpoints of one run.

    metric: named in file names. keep_checkpoints: how many epochs to keep besides last and best.
    save_every: seconds between checkpoints inside an epoch.
    """

    run: RunFolder
    origin: Origin
    metric: str
    keep_checkpoints: int
    save_every: float
    saved_at: float = field(default_factory=time.monotonic, init=False)

    def commit_epoch(self, state: TrainingState, is_best: bool) -> None:
        """Write a finished epoch.

        `best` is moved after `last`: if the process is killed in between, both epochs exist and resume moves it.
        """
        shown = "accuracy" if self.metric == "loss" else self.metric  # the loss is in every file name
        row = state.history[-1]
        file = self.run.epoch_checkpoint(state.epoch, row.val["loss"], shown, row.val[shown])
        self._write(file, state)
        link_atomically(file, self.run.last_checkpoint)
        if is_best:
            link_atomically(file, self.run.best_checkpoint)
        self.run.write_history([row.to_dict() for row in state.history])
        self._remove_old(state.epoch)

    def is_due(self) -> bool:
        """Whether save_every seconds have passed since the last checkpoint."""
        return time.monotonic() - self.saved_at >= self.save_every

    def commit_last(self, state: TrainingState) -> None:
        """Write the current state, which may be inside an epoch, as `last`; nothing if it is not finite."""
        if state.is_finite():
            if os.path.exists(self.run.last_checkpoint):
                link_atomically(self.run.last_checkpoint, self.run.previous_checkpoint)
            self._write(self.run.last_checkpoint, state)

    def _write(self, file: str, state: TrainingState) -> None:
        metrics = state.history[-1].val if state.history else {}
        content = {**state.to_dict(), "loss": metrics.get("loss"), "metrics": metrics, **self.origin.to_dict()}
        write_checkpoint(file, content)
        self.saved_at = time.monotonic()

    def _remove_old(self, epoch: int) -> None:
        """Keep the checkpoints of the newest epochs. Best and last are links of their own and stay."""
        remove(self.run.previous_checkpoint)
        for file, written in self.run.epoch_checkpoints().items():
            if written <= epoch - self.keep_checkpoints or written > epoch:
                remove(file)


def newest_checkpoint(run: RunFolder) -> Checkpoint | None:
    """The checkpoint `last`; if it is damaged or missing, the undamaged one with the most steps; None if the run was
    stopped before its first checkpoint.

    Raises DataError if all checkpoints are damaged, or if some must have existed and are gone.
    """
    undamaged: dict[str, tuple[int, int]] = {}
    damaged: dict[str, TlkitError] = {}
    for file in run.checkpoint_files():
        try:
            checkpoint = read_checkpoint(file)
        except (DataError, UnsafeError, MissingInputError) as error:
            damaged[file] = error
            continue
        if file == run.last_checkpoint:
            return checkpoint
        undamaged[file] = checkpoint.step, checkpoint.epoch
    if not undamaged:
        require_no_checkpoint_lost(run, damaged)
        return None
    newest = read_checkpoint(max(undamaged, key=undamaged.__getitem__))
    problem = damaged[run.last_checkpoint].problem if os.path.exists(run.last_checkpoint) else "is missing"
    log_status(
        "warning",
        f"{run.last_checkpoint} {problem}; resuming from {os.path.basename(newest.path)} (epoch {newest.epoch}, "
        f"step {newest.step}), the newest undamaged checkpoint",
    )
    return newest


def require_no_checkpoint_lost(run: RunFolder, damaged: Mapping[str, TlkitError]) -> None:
    """Raises DataError unless a run without undamaged checkpoints was stopped before its first one."""
    hint = "To train from the start, choose another folder with: tlkit finetune DATA --out DIR"
    if damaged:
        listing = "\n".join(f"  {error}" for error in damaged.values())
        raise DataError(run.path, "has no undamaged checkpoint", f"{listing}\n{hint}")
    if os.path.exists(run.history_file) or os.path.exists(run.model_file):
        raise DataError(run.path, "has finished epochs but no checkpoint", hint)


def find_epoch(files: Iterable[str], row: EpochRow) -> Checkpoint | None:
    """The first of these files that is the undamaged checkpoint of a finished epoch with this row."""
    for file in files:
        try:
            checkpoint = read_checkpoint(file)
        except (DataError, UnsafeError, MissingInputError):
            continue
        if checkpoint.history[-1:] == (row,) and not checkpoint.step_in_epoch:
            return checkpoint
    return None
