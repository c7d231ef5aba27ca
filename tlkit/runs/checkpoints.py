"""The checkpoints of a run: written, linked as best and last, old ones removed; and the newest whole one found."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

from tlkit.errors import DataError, MissingInputError, TlkitError, UnsafeError
from tlkit.files.artifact import read_artifact, write_artifact
from tlkit.files.atomic import link_atomically, remove
from tlkit.files.run_folder import RunFolder
from tlkit.model.files import CHECKPOINT_FORMAT, ModelDescription
from tlkit.terminal import log_status
from tlkit.training.metrics import METRICS, history_key, validation_figures
from tlkit.training.state import TrainingState


@dataclass(frozen=True)
class Origin:
    """Where checkpoints come from: the same in all that one process writes.

    options, environment: plain types. split_sha256: of which image is where.
    """

    options: Mapping[str, Any]
    environment: Mapping[str, Any]
    description: ModelDescription
    split_sha256: str

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as a checkpoint holds them."""
        return {
            **self.description.to_dict(),
            "options": dict(self.options),
            "environment": dict(self.environment),
            "split_sha256": self.split_sha256,
        }


@dataclass
class Checkpointer:
    """Writes the checkpoints of one run. save_every: seconds between those inside an epoch."""

    run: RunFolder
    origin: Origin
    metric: str
    keep: int
    save_every: float
    saved_at: float = field(default_factory=time.monotonic, init=False)

    def commit_epoch(self, state: TrainingState, is_best: bool) -> None:
        """Write a finished epoch. `best` is moved after `last`: a kill between them leaves both epochs there, and
        resume moves it."""
        row = state.history[-1]
        shown = "accuracy" if self.metric == "loss" else self.metric  # the loss is in every name
        file = self.run.epoch_checkpoint(state.epoch, row["val_loss"], shown, row[history_key(shown)])
        self._write(file, state)
        link_atomically(file, self.run.last_checkpoint)
        if is_best:
            link_atomically(file, self.run.best_checkpoint)
        self.run.write_history(state.history)
        self._remove_old(state.epoch)

    def is_due(self) -> bool:
        """Whether the last checkpoint is so old that another is wanted before the epoch is done."""
        return time.monotonic() - self.saved_at >= self.save_every

    def commit_last(self, state: TrainingState) -> None:
        """Write where training stands, which may be inside an epoch; nothing if it stands at what is no number."""
        if state.is_finite():
            if os.path.exists(self.run.last_checkpoint):
                link_atomically(self.run.last_checkpoint, self.run.previous_checkpoint)
            self._write(self.run.last_checkpoint, state)

    def _write(self, file: str, state: TrainingState) -> None:
        figures = validation_figures(state.history[-1]) if state.history else {}
        content = {**state.to_dict(), "loss": figures.get("loss"), "metrics": figures, **self.origin.to_dict()}
        write_artifact(file, CHECKPOINT_FORMAT, content)
        self.saved_at = time.monotonic()

    def _remove_old(self, epoch: int) -> None:
        """Keep the newest `keep` whole epochs; best and last are names of their own and stay."""
        remove(self.run.previous_checkpoint)
        for file, written in self.run.epoch_checkpoints().items():
            if written <= epoch - self.keep or written > epoch:
                remove(file)


def read_checkpoint(path: str) -> dict[str, Any]:
    """Open a checkpoint. Raises as read_artifact does, and DataError for one that lacks something."""
    checkpoint = read_artifact(path, CHECKPOINT_FORMAT)
    require_kinds(path, checkpoint, CONTENT)
    require_kinds(path, checkpoint["progress"], PROGRESS)
    progress = checkpoint["progress"]
    for row in progress["history"]:
        require_kinds(path, row if isinstance(row, dict) else {}, ROW)
    if progress["best"] is not None and progress["best"] not in progress["history"]:
        raise DataError(path, "is not a whole checkpoint: its best epoch is none of its history")
    return checkpoint


CONTENT: dict[str, tuple[type, ...]] = {
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


PROGRESS: dict[str, tuple[type, ...]] = {
    "step_in_epoch": (int,),
    "tally": (dict, NoneType),
    "history": (list,),
    "best": (dict, NoneType),
}


ROW: dict[str, tuple[type, ...]] = {
    "epoch": (int,),
    **{history_key(name): (float,) for name, metric in METRICS.items() if metric.headline},
}
"""A row of history; rows of older versions lack metrics that came later."""


def require_kinds(path: str, values: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]]) -> None:
    """Raises DataError unless each value is there and of its kind."""
    for name, kind in kinds.items():
        if not isinstance(values.get(name, Ellipsis), kind):
            raise DataError(path, f"is not a whole checkpoint: {name} is missing or no {kind[0].__name__}")


def newest_checkpoint(run: RunFolder) -> tuple[str, dict[str, Any]] | None:
    """The file and content of `last`; if that is damaged or gone, of the newest that is whole; None if there never was
    one.

    Newest by the step it was written at. Raises DataError if there are checkpoints and none is whole, or if there must
    have been some.
    """
    whole: dict[str, tuple[int, int]] = {}
    damaged: dict[str, TlkitError] = {}
    for file in run.checkpoint_files():
        try:
            checkpoint = read_checkpoint(file)
        except (DataError, UnsafeError, MissingInputError) as error:
            damaged[file] = error
            continue
        if file == run.last_checkpoint:
            return file, checkpoint
        whole[file] = checkpoint["step"], checkpoint["epoch"]
    if not whole:
        require_a_fresh_start(run, damaged)
        return None
    newest = max(whole, key=whole.__getitem__)
    why = damaged[run.last_checkpoint].problem if os.path.exists(run.last_checkpoint) else "is missing"
    checkpoint = read_checkpoint(newest)
    log_status(
        "warning",
        f"{run.last_checkpoint} {why}; going on from {os.path.basename(newest)} (epoch {checkpoint['epoch']}, "
        f"step {checkpoint['step']}), the newest that is whole",
    )
    return newest, checkpoint


def require_a_fresh_start(run: RunFolder, damaged: Mapping[str, TlkitError]) -> None:
    """Raises DataError unless a run without a whole checkpoint was stopped before its first."""
    hint = "To train from the beginning, start a new run in another folder."
    if damaged:
        listing = "\n".join(f"  {error}" for error in damaged.values())
        raise DataError(run.path, "has no checkpoint that is whole", f"{listing}\n{hint}")
    if os.path.exists(run.history_file) or os.path.exists(run.model_file):
        raise DataError(run.path, "has no checkpoint any more, though it finished an epoch", hint)


def find_epoch(files: Iterable[str], row: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The first of these files that is the checkpoint of an epoch, known by its row of history; and its content."""
    for file in files:
        try:
            checkpoint = read_checkpoint(file)
        except (DataError, UnsafeError, MissingInputError):
            continue
        progress = checkpoint["progress"]
        if progress["history"][-1:] == [row] and not progress["step_in_epoch"]:
            return file, checkpoint
    return None
