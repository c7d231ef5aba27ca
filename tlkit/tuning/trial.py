"""One trial, in a process of Ray's: an ordinary run in its own folder that reports some of its epochs to the search."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tlkit.data.bad_images import check_images
from tlkit.data.folder import Dataset
from tlkit.data.sources import find_dataset
from tlkit.data.splitting import folds_of
from tlkit.distributed.world import SINGLE_PROCESS
from tlkit.errors import OutputError, ResourceError, StorageError, UnavailableError, to_tlkit_error
from tlkit.features.memory_cache import FeatureMemory, share_of_memory
from tlkit.files.atomic import opened_folder
from tlkit.files.run_folder import RunFolder
from tlkit.interruption import Interruption
from tlkit.options import FinetuneOptions, ResumeOptions
from tlkit.options.data import DataOptions
from tlkit.options.space import Point
from tlkit.runs.plan import Plan
from tlkit.runs.resume import resume_in_place
from tlkit.runs.session import prepared
from tlkit.runs.setup import resolve
from tlkit.runs.train import start_run
from tlkit.runs.train_loop import RunPolicy, run_loop
from tlkit.training.loop import StopTraining, TrainingObserver
from tlkit.training.metrics import METRICS
from tlkit.training.state import TrainingState

EPOCH, OBJECTIVE = "epoch", "objective"
"""Keys of a report: the epoch, and the metric of the best epoch so far (larger is better)."""

Report = Mapping[str, Any]
"""A report of a trial to the search; the last report also holds the outcome or the error."""

SAVE_SECONDS = 5.0
"""Seconds between checkpoints: a killed trial loses at most these, and the current epoch."""

TRANSIENT = (ResourceError, StorageError, OutputError, UnavailableError)
"""Errors of the machine (memory, disk, device) and not of the options that are tried."""

LOCK_SECONDS = 60.0
"""Seconds to wait for a run's lock: a process of a killed search may still hold it."""


@dataclass(frozen=True)
class Assignment:
    """The run that a process has to train, as plain values that can be sent to another machine.

    point: the options that the trial changes. options: shared by all trials. report_epochs: epochs after which
    the scheduler decides whether the trial stops. cache: the cache folder of features.
    """

    number: int
    point: Point
    run: str
    options: dict[str, object]
    report_epochs: list[int]
    folds: int | None
    cache: str

    def to_config(self) -> dict[str, str]:
        """The configuration of Ray's trial: one JSON text, which Ray does not interpret."""
        return {"assignment": json.dumps(dataclasses.asdict(self))}

    @classmethod
    def from_config(cls, config: Mapping[str, str]) -> Assignment:
        """The inverse of to_config."""
        return cls(**json.loads(config["assignment"]))


def train_trial(config: Mapping[str, str]) -> None:
    """The function that Ray runs. Reports the best epoch so far, and at the end the outcome or the error."""
    from ray import get_runtime_context, tune

    assignment = Assignment.from_config(config)
    os.environ["TLKIT_CACHE"] = assignment.cache
    node = get_runtime_context().get_node_id()
    began = time.monotonic()

    def report(figures: Report) -> None:
        tune.report({**figures, "node": node, "seconds": round(time.monotonic() - began, 3)})

    reporter = TrialReporter(assignment, report)
    outcome = outcome_of_trial(assignment, reporter)
    if reporter.stopping is not None:
        raise reporter.stopping
    report({**reporter.report, **outcome, "ended": True})


def outcome_of_trial(assignment: Assignment, reporter: TrialReporter) -> Report:
    """Run a trial and return its last report, or its error: a failed trial does not end the search."""
    try:
        return run_trial(assignment, reporter)
    except Exception as error:
        known = to_tlkit_error(error)
        return {"error": str(known), "is_transient": isinstance(known, TRANSIENT)}


class TrialReporter(TrainingObserver):
    """Reports epochs to Ray, which raises SystemExit to stop the trial."""

    def __init__(self, assignment: Assignment, send: Callable[[Report], None]) -> None:
        self.report_epochs = frozenset(assignment.report_epochs)
        self.metric = str(assignment.options["metric"])
        self.send = send
        self.report: Report = {EPOCH: 0}
        self.stopping: SystemExit | None = None
        self.saved_at = time.monotonic()

    def should_save(self, state: TrainingState) -> bool:
        """Whether an epoch gets a checkpoint: if it is reported, and one every few seconds."""
        if state.epoch not in self.report_epochs and time.monotonic() - self.saved_at < SAVE_SECONDS:
            return False
        self.saved_at = time.monotonic()
        return True

    def after_epoch(self, state: TrainingState, is_best: bool) -> None:
        """Report an epoch. Raises StopTraining when the scheduler stops the trial."""
        best = state.best or state.history[-1]
        self.report = {
            EPOCH: state.epoch,
            OBJECTIVE: METRICS[self.metric].objective(best.val[self.metric]),
            "figures": best.val,
        }
        if state.epoch in self.report_epochs:
            try:
                self.send(self.report)
            except SystemExit as stopping:
                self.stopping = stopping
                raise StopTraining from stopping


def run_trial(assignment: Assignment, reporter: TrialReporter) -> Report:
    """Train, from the newest checkpoint if there is one. Returns the accuracies of the folds, if there are folds."""
    search = os.path.dirname(os.path.dirname(assignment.run))
    run, signals = RunFolder(assignment.run, root=search), Interruption()
    policy = RunPolicy(reporter.should_save, reporter, exports_model=False, memory=cached_features)
    options = FinetuneOptions.of({**assignment.options, **assignment.point})
    with locked_when_free(run):
        run.make_checkpoints_folder()
        run.remove_leftovers()
        dataset = read_dataset(options)
        if os.path.exists(run.options_file):
            resume_options = ResumeOptions(checkpoint=run.path, trust_pickle=options.trust_pickle)
            resume_in_place(run, resume_options, signals, SINGLE_PROCESS, policy)
        else:
            start_run(run, options, dataset, signals, SINGLE_PROCESS, policy)
        if assignment.folds is None or reporter.stopping is not None:
            return {}
        return {"fold_accuracies": cross_validate(options, dataset, assignment.folds, signals)}


@contextlib.contextmanager
def locked_when_free(run: RunFolder) -> Iterator[None]:
    """Hold the lock of a run. Raises OutputError if another process still holds it after LOCK_SECONDS."""
    ends_at = time.monotonic() + LOCK_SECONDS
    with opened_folder(os.path.dirname(run.path), run.root) as trials, contextlib.suppress(FileExistsError):
        os.mkdir(os.path.basename(run.path), dir_fd=trials)
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


def cross_validate(options: FinetuneOptions, dataset: Dataset, folds: int, signals: Interruption) -> list[float]:
    """For each fold, the accuracy of a head that is trained on the other folds, at its best epoch."""
    accuracies = list[float]()
    for fold in folds_of(dataset, folds, options.seed):
        with prepared(Plan(resolve(options), fold), signals, SINGLE_PROCESS, memory=cached_features) as session:
            run_loop(session)  # nothing is saved
        best = session.setup.state.best
        assert best is not None
        accuracies.append(best.val["accuracy"])
    return accuracies


cached_features = FeatureMemory(share_of_memory())

cached_datasets: dict[tuple[object, ...], Dataset] = {}


def read_dataset(options: FinetuneOptions) -> Dataset:
    """The images of a trial, checked once per process. Raises as `find_dataset` and `check_images` do."""
    key = tuple(getattr(options, field.name) for field in dataclasses.fields(DataOptions))
    if key not in cached_datasets:
        cached_datasets.clear()
        cached_datasets[key] = check_images(options, find_dataset(options))
    return cached_datasets[key]
