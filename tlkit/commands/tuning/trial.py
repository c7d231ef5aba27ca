"""One trial, in a process of Ray's: an ordinary run in its own folder, which reports at epochs that are asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tlkit.commands.tuning.table import merit_of
from tlkit.errors import OutputError, ResourceError, StorageError, UnavailableError, understood
from tlkit.options.space import Point
from tlkit.run_folder import RunFolder

SAVE_SECONDS = 5.0
"""What of a trial a kill costs at most, beside the epoch that it is in."""

PASSING = (ResourceError, StorageError, OutputError, UnavailableError)
"""Errors of the machine and not of what is tried: memory, a disk, a device."""

LOCK_SECONDS = 60.0
"""A process of a search that was killed may hold its run a moment longer."""


@dataclass(frozen=True)
class Assignment:
    """What a process is to train: plain values, as they travel between machines.

    options: those that all trials share, resolved. reports: the epochs after which the search decides whether it goes
    on. cache: the folder of vectors.
    """

    number: int
    point: Point
    run: str
    options: dict[str, Any]
    reports: list[int]
    folds: int | None
    cache: str

    def to_config(self) -> dict[str, Any]:
        """As Ray carries it: one text, of which it makes nothing."""
        return {"assignment": json.dumps(dataclasses.asdict(self))}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Assignment:
        return cls(**json.loads(config["assignment"]))


def train_trial(config: Mapping[str, Any]) -> None:
    """What Ray calls. It is told the figures of the best epoch so far; in the end, or in an error, that too."""
    from ray import get_runtime_context, tune

    assignment = Assignment.from_config(config)
    os.environ["TLKIT_CACHE"] = assignment.cache
    node = get_runtime_context().get_node_id()
    began = time.monotonic()

    def report(figures: Mapping[str, Any]) -> None:
        tune.report({**figures, "node": node, "seconds": round(time.monotonic() - began, 3)})

    watcher = Watcher(assignment, report)
    outcome = attempt(assignment, watcher)
    if watcher.stopping is not None:
        raise watcher.stopping
    report({**watcher.figures, **outcome, "ended": True})


def attempt(assignment: Assignment, watcher: Watcher) -> dict[str, Any]:
    """As carry_out; an error is the search's to record, and no other trial's business."""
    try:
        return carry_out(assignment, watcher)
    except Exception as error:
        known = understood(error)
        return {"error": str(known), "passing": isinstance(known, PASSING)}


class Watcher:
    """Reports epochs to the search, which answers by a SystemExit when it has seen enough of this trial."""

    def __init__(self, assignment: Assignment, report: Any) -> None:
        self.reports = frozenset(assignment.reports)
        self.metric = assignment.options["metric"]
        self.report = report
        self.figures: dict[str, Any] = {"epoch": 0}
        self.stopping: SystemExit | None = None
        self.saved_at = time.monotonic()

    def saves(self, state: Any) -> bool:
        """A checkpoint where the search may stop the trial, and every few seconds: each costs as much as an epoch."""
        if state.epoch not in self.reports and time.monotonic() - self.saved_at < SAVE_SECONDS:
            return False
        self.saved_at = time.monotonic()
        return True

    def hear(self, state: Any) -> None:
        """Hear of an epoch. Raises EnoughSeen."""
        from tlkit.training.loop import EnoughSeen

        best = state.best or state.history[-1]
        self.figures = {
            "epoch": state.epoch,
            "merit": merit_of(best, self.metric),
            "accuracy": best["val_accuracy"],
            "macro_f1": best["val_macro_f1"],
            "loss": best["val_loss"],
        }
        if state.epoch in self.reports:
            try:
                self.report(self.figures)
            except SystemExit as stopping:
                self.stopping = stopping
                raise EnoughSeen from stopping


def carry_out(assignment: Assignment, watcher: Watcher) -> dict[str, Any]:
    """Train from the start, or from where the trial was stopped with its search. Returns what the search is told."""
    from tlkit.commands.conduct import Conduct
    from tlkit.commands.continuation import continue_in_place
    from tlkit.commands.training_run import start_run
    from tlkit.commands.tuning.folds import cross_validate
    from tlkit.commands.tuning.remembered import dataset_of, vectors
    from tlkit.distributed import ALONE
    from tlkit.interruption import Interruption
    from tlkit.options import FinetuneOptions, ResumeOptions

    run, signals, conduct = (
        RunFolder(assignment.run),
        Interruption(),
        Conduct(watcher.saves, watcher.hear, ships=False, memory=vectors),
    )
    options = FinetuneOptions(**{**assignment.options, **assignment.point})
    with locked_when_free(run):
        run.make_checkpoints_folder()
        run.remove_leftovers()
        dataset = dataset_of(options)
        if os.path.exists(run.options_file):
            again = ResumeOptions(checkpoint=run.path, trust_pickle=options.trust_pickle)
            continue_in_place(run, again, signals, ALONE, conduct)
        else:
            start_run(run, options, dataset, signals, ALONE, conduct)
        if assignment.folds is None or watcher.stopping is not None:
            return {}
        return {"fold_accuracies": cross_validate(options, dataset, assignment.folds, signals, vectors)}


@contextlib.contextmanager
def locked_when_free(run: RunFolder) -> Iterator[None]:
    """Hold a run as soon as nobody else does. Raises OutputError after LOCK_SECONDS."""
    ends_at = time.monotonic() + LOCK_SECONDS
    os.makedirs(run.path, exist_ok=True)
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(run.locked())
                break
            except OutputError:
                if time.monotonic() > ends_at:
                    raise
                time.sleep(0.1)
        yield
