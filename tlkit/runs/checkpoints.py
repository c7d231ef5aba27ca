"""Checkpoints of a run: written, linked as best and last, removed when old; and the newest undamaged one found."""

from __future__ import annotations

import dataclasses
import os
import shlex
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Self

from tlkit.errors import DataError, MissingInputError, TlkitError, UnsafeError
from tlkit.files.artifact import read_artifact, write_artifact
from tlkit.files.new_run import free_name
from tlkit.files.run_folder import RunFolder
from tlkit.model.files import CHECKPOINT_FORMAT
from tlkit.terminal import log_status
from tlkit.training.history import EpochRow
from tlkit.training.state import TrainingState

TYPES: Mapping[str, type] = {
    "epoch": int, "step": int, "model_state_dict": dict, "optimizer_state_dict": dict, "progress": dict,
    "options": dict, "environment": dict, "classes": list, "backbone": dict, "split_sha256": str,
}  # fmt: skip
"""Required keys of a checkpoint."""

PROGRESS_TYPES = {"step_in_epoch": int, "tally": dict | NoneType, "history": list, "best": dict | NoneType}
"""Required keys of its progress."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read from `path`.

    content: the whole file, tensors on the CPU. history, best: as typed rows; `best` replaces that of the content.
    options, environment: of the run that wrote it. split_sha256: identifies its images by name, and their split.
    data_sha256: identifies their content; None in checkpoints of older versions.
    """

    path: str
    content: Mapping[str, Any]
    epoch: int
    step: int
    step_in_epoch: int
    history: tuple[EpochRow, ...]
    best: EpochRow | None
    options: Mapping[str, object]
    environment: Mapping[str, object]
    classes: list[str]
    split_sha256: str
    data_sha256: str | None

    @classmethod
    def from_dict(cls, path: str, content: Mapping[str, Any]) -> Self:
        """Raises DataError naming path for content that is not a complete checkpoint."""
        for values, types in ((content, TYPES), (content.get("progress"), PROGRESS_TYPES)):
            for name, kind in types.items():
                if not isinstance(values, Mapping) or not isinstance(values.get(name, Ellipsis), kind):
                    raise DataError(path, f"is not a complete checkpoint: {name} is missing or of another type")
        progress = content["progress"]
        counts = {name: content[name] for name in ("epoch", "step")} | {"step_in_epoch": progress["step_in_epoch"]}
        if (micro_batch := progress.get("micro_batch")) is not None:
            counts["micro_batch"] = micro_batch
        for name, value in counts.items():
            if type(value) is not int or value < (name == "micro_batch"):
                raise DataError(path, f"is not a complete checkpoint: {name} is {str(value)[:80]}")
        try:
            history = tuple(map(EpochRow.from_dict, progress["history"]))
            best = EpochRow.from_dict(progress["best"]) if progress["best"] is not None else None
        except ValueError as error:
            raise DataError(path, f"is not a complete checkpoint: {error}") from error
        if best is not None and best not in history:
            raise DataError(path, "is not a complete checkpoint: its best epoch is not in its history")
        names = ("epoch", "step", "options", "environment", "classes", "split_sha256")
        values = {name: content[name] for name in names}
        values |= {"step_in_epoch": progress["step_in_epoch"], "data_sha256": content.get("data_sha256")}
        return cls(path, content, history=history, best=best, **values)

    def to_dict(self) -> dict[str, object]:
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


def read_checkpoint(path: str) -> Checkpoint:
    """Open a checkpoint. Raises as read_artifact does, and DataError for one that is not complete."""
    return Checkpoint.from_dict(path, read_artifact(path, CHECKPOINT_FORMAT))


def try_checkpoint(path: str) -> Checkpoint | TlkitError:
    """The checkpoint, or the error of one that is missing, damaged or unsafe."""
    try:
        return read_checkpoint(path)
    except (DataError, UnsafeError, MissingInputError) as error:
        return error


def write_checkpoint(run: RunFolder, path: str, content: Mapping[str, object]) -> None:
    """Write a checkpoint into its run, atomically."""
    write_artifact(path, CHECKPOINT_FORMAT, content, run.root)


@dataclass
class Checkpointer:
    """Writes the checkpoints of one run.

    origin: the entries of a checkpoint that are the same for the whole run, plain types. metric: named in file names.
    keep_checkpoints: how many epochs to keep besides last and best. save_every: seconds between checkpoints inside an
    epoch.
    """

    run: RunFolder
    origin: Mapping[str, object]
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
        self.run.link(file, self.run.last_checkpoint)
        if is_best:
            self.run.link(file, self.run.best_checkpoint)
        self.run.write_history([row.to_dict() for row in state.history])
        # Remove all but the newest epochs. Best and last are links of their own and stay.
        self.run.remove(self.run.previous_checkpoint)
        for old, epoch in self.run.epoch_checkpoints().items():
            if not state.epoch - self.keep_checkpoints < epoch <= state.epoch:
                self.run.remove(old)

    def is_due(self) -> bool:
        """Whether save_every seconds have passed since the last checkpoint."""
        return time.monotonic() - self.saved_at >= self.save_every

    def commit_last(self, state: TrainingState) -> None:
        """Write the current state, which may be inside an epoch, as `last`; nothing if it is not finite."""
        if state.is_finite():
            if os.path.exists(self.run.last_checkpoint):
                self.run.link(self.run.last_checkpoint, self.run.previous_checkpoint)
            self._write(self.run.last_checkpoint, state)

    def _write(self, file: str, state: TrainingState) -> None:
        metrics = state.history[-1].val if state.history else {}
        content = {**state.to_dict(), "loss": metrics.get("loss"), "metrics": metrics, **self.origin}
        write_checkpoint(self.run, file, content)
        self.saved_at = time.monotonic()


def newest_checkpoint(run: RunFolder) -> Checkpoint | None:
    """The checkpoint `last`; if it is damaged or missing, the undamaged one with the most steps; None if the run was
    stopped before its first checkpoint.

    Raises DataError if all checkpoints are damaged, or if some must have existed and are gone.
    """
    undamaged: dict[str, tuple[int, int]] = {}
    damaged: dict[str, TlkitError] = {}
    for file in run.checkpoint_files():
        checkpoint = try_checkpoint(file)
        if isinstance(checkpoint, TlkitError):
            damaged[file] = checkpoint
        elif file == run.last_checkpoint:
            return checkpoint
        else:
            undamaged[file] = checkpoint.step, checkpoint.epoch
    if not undamaged:
        hint = f"To train from the start: tlkit finetune DATA --out {shlex.quote(free_name(run.path))}"
        if damaged:
            raise DataError(run.path, "has no undamaged checkpoint", hint, map(str, damaged.values()))
        if os.path.exists(run.history_file) or os.path.exists(run.model_file):
            raise DataError(run.path, "has finished epochs but no checkpoint", hint)
        return None
    newest = read_checkpoint(max(undamaged, key=undamaged.__getitem__))
    problem = damaged[run.last_checkpoint].problem if os.path.exists(run.last_checkpoint) else "is missing"
    log_status(
        "warning",
        f"{run.last_checkpoint} {problem}; resuming from {os.path.basename(newest.path)} (epoch {newest.epoch}, "
        f"step {newest.step}), the newest undamaged checkpoint",
    )
    return newest


def find_epoch(files: Iterable[str], row: EpochRow) -> Checkpoint | None:
    """The first of these files that is the undamaged checkpoint of a finished epoch with this row."""
    for file in files:
        checkpoint = try_checkpoint(file)
        if isinstance(checkpoint, Checkpoint) and checkpoint.history[-1:] == (row,) and not checkpoint.step_in_epoch:
            return checkpoint
    return None
