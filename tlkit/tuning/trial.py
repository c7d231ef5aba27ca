"""One trial, in a process of Ray's: an ordinary run in its own folder, which reports at epochs that are asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from tlkit.data.bad_images import check_images
from tlkit.data.folder import Dataset, folds_of
from tlkit.data.scan import find_dataset
from tlkit.distributed.world import SINGLE_PROCESS
from tlkit.errors import OutputError, ResourceError, StorageError, UnavailableError, to_tlkit_error
from tlkit.features.memory_cache import VectorMemory, share_of_memory
from tlkit.files.run_folder import RunFolder
from tlkit.interruption import Interruption
from tlkit.options import FinetuneOptions
from tlkit.options.data import DataOptions
from tlkit.options.space import Point
from tlkit.runs.batches import BatchBuilder
from tlkit.runs.setup import build, resolve
from tlkit.runs.train_loop import no_op, run_loop
from tlkit.training.metrics import merit_of, validation_figures

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

    reporter = TrialReporter(assignment, report)
    outcome = attempt(assignment, reporter)
    if reporter.stopping is not None:
        raise reporter.stopping
    report({**reporter.figures, **outcome, "ended": True})


def attempt(assignment: Assignment, reporter: TrialReporter) -> dict[str, Any]:
    """As carry_out; an error is the search's to record, and no other trial's business."""
    try:
        return run_trial(assignment, reporter)
    except Exception as error:
        known = to_tlkit_error(error)
        return {"error": str(known), "passing": isinstance(known, PASSING)}


class TrialReporter:
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

    def after_epoch(self, state: Any) -> None:
        """Report an epoch. Raises StopTraining when the search stops the trial."""
        from tlkit.training.loop import StopTraining

        best = state.best or state.history[-1]
        self.figures = {
            "epoch": state.epoch,
            "merit": merit_of(best, self.metric),
            "figures": validation_figures(best),
        }
        if state.epoch in self.reports:
            try:
                self.report(self.figures)
            except SystemExit as stopping:
                self.stopping = stopping
                raise StopTraining from stopping


def run_trial(assignment: Assignment, reporter: TrialReporter) -> dict[str, Any]:
    """Train from the start, or from where the trial was stopped with its search. Returns what the search is told."""
    from tlkit.distributed.world import SINGLE_PROCESS
    from tlkit.interruption import Interruption
    from tlkit.options import FinetuneOptions, ResumeOptions
    from tlkit.runs.policy import RunPolicy
    from tlkit.runs.resume import continue_in_place
    from tlkit.runs.train import start_run

    run, signals, policy = (
        RunFolder(assignment.run),
        Interruption(),
        RunPolicy(reporter.saves, reporter.after_epoch, exports_model=False, memory=vectors),
    )
    options = FinetuneOptions(**{**assignment.options, **assignment.point})
    with locked_when_free(run):
        run.make_checkpoints_folder()
        run.remove_leftovers()
        dataset = dataset_of(options)
        if os.path.exists(run.options_file):
            again = ResumeOptions(checkpoint=run.path, trust_pickle=options.trust_pickle)
            continue_in_place(run, again, signals, SINGLE_PROCESS, policy)
        else:
            start_run(run, options, dataset, signals, SINGLE_PROCESS, policy)
        if assignment.folds is None or reporter.stopping is not None:
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


def cross_validate(
    options: FinetuneOptions, dataset: Dataset, folds: int, signals: Interruption, memory: VectorMemory
) -> list[float]:
    """The accuracy of each fold: of a head trained on all others, at its best epoch, as a run's own is."""
    resolved = resolve(options)
    return [accuracy_on(resolved, fold, signals, memory) for fold in folds_of(dataset, folds, options.seed)]


def accuracy_on(options: FinetuneOptions, dataset: Dataset, signals: Interruption, memory: VectorMemory) -> float:
    """The validation accuracy of a head trained as the options say; nothing of it is kept."""
    built = build(options, dataset, None, SINGLE_PROCESS, dataset.root)
    preparation = BatchBuilder(
        built.options,
        dataset,
        built.classifier,
        built.description,
        built.devices,
        True,
        signals,
        SINGLE_PROCESS,
        memory,
    )
    with closing(preparation):
        images = preparation.batches()
    run_loop(built.options, images, built.state, built.devices.first, no_op, no_op, no_op)
    assert built.state.best is not None
    return validation_figures(built.state.best)["accuracy"]


vectors = VectorMemory(share_of_memory())


datasets: dict[tuple[object, ...], Dataset] = {}


def dataset_of(options: FinetuneOptions) -> Dataset:
    """The images that a trial is to train on, looked at once. Raises as `find_dataset` and `check_images` do."""
    key = tuple(getattr(options, field.name) for field in dataclasses.fields(DataOptions))
    if key not in datasets:
        datasets.clear()
        datasets[key] = check_images(options, find_dataset(options))
    return datasets[key]
