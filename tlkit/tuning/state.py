"""The state of a search: which trial is next, and how each trial ended."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from tlkit.errors import TlkitError
from tlkit.features.cache import cache_folder
from tlkit.files.json_file import read_json_lines, read_whole_json
from tlkit.files.run_folder import RunFolder
from tlkit.options import TuneOptions
from tlkit.training.evaluation import standard_error
from tlkit.training.history import EpochRow
from tlkit.training.loop import is_over
from tlkit.training.metrics import METRICS, better
from tlkit.tuning.leaderboard import Display
from tlkit.tuning.prepare import Prepared, features_key, network_key
from tlkit.tuning.results import Table, Trial, mean_and_error
from tlkit.tuning.samplers import Sampler
from tlkit.tuning.search_folder import SearchFolder
from tlkit.tuning.trial import EPOCH, OBJECTIVE, Assignment, Report

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Method = Callable[Concatenate["OngoingSearch", Arguments], Result]


def keeps_error(method: Method[Arguments, Result]) -> Method[Arguments, Result]:
    """Decorator of methods that Ray calls: keep the first exception, because Ray turns it into text and continues."""

    @wraps(method)
    def wrapper(search: OngoingSearch, *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        try:
            return method(search, *arguments, **named)
        except Exception as error:
            search.first_error = search.first_error or error
            raise

    return wrapper  # type: ignore[return-value]


@dataclass
class OngoingSearch:
    """A search while it runs. A trial is written to disk before it is given to Ray, and updated when Ray reports.

    decision_epochs: epochs after which the scheduler decides whether a trial stops. stopped: the trials that it has
    stopped. waiting: trials still to run; those started before are first, with their run folder and point.
    """

    options: TuneOptions
    table: Table
    sampler: Sampler
    prepared: Prepared
    decision_epochs: Sequence[int]
    validation_images: int
    stopped: set[int] = field(default_factory=set, init=False)
    first_error: Exception | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.waiting = missing(self.table, self.options.trials())
        self.display = Display(self.table, self.options.trials())

    @property
    def folder(self) -> SearchFolder:
        return self.table.search

    @keeps_error
    def next_assignment(self) -> Assignment | None:
        """The next trial; None if there is no other."""
        if not self.waiting:
            return None
        number = self.waiting.pop(0)
        run = self.folder.trial(number)
        row = self.table.rows.get(number)
        if row is None:
            row = Trial(number, self.sampler.point(number), path=os.path.relpath(run.path, self.folder.path))
        options = self.options.trial(row.options)
        row = dataclasses.replace(row, state="running", error=None, is_transient=False)
        if network := self.prepared.networks.get(network_key(options)):
            parameters = network.parameters_with(options.head, options.hidden)
            row = dataclasses.replace(row, images_per_second=network.images_per_second, parameters=parameters)
        self.table.put(row)
        workers = (self.options.cpus_per_trial or 1) if options.workers is None else options.workers
        engine = self.prepared.backends.get(features_key(options), options.engine)
        return Assignment(
            number=number,
            point=row.options,
            run=run.path,
            options={**self.options.shared(), "engine": engine, "workers": workers},
            report_epochs=[epoch for epoch in self.decision_epochs if epoch < options.planned_epochs()],
            folds=self.options.folds,
            cache=cache_folder(),
        )

    def past_reports(self) -> dict[int, list[dict[str, float]]]:
        """Reports of each trial from before a resume, except its last epoch, which it will report again."""
        metric, reports = self.options.metric, dict[int, list[dict[str, float]]]()
        for number, row in self.table.rows.items():
            history = [*best_so_far(self.folder.trial(number), metric)]
            reports[number] = [
                {EPOCH: epoch, OBJECTIVE: METRICS[metric].objective(best.val[metric])}
                for epoch, best in (history if row.has_ended() else history[:-1])
                if epoch in self.decision_epochs
            ]
        return reports

    @keeps_error
    def record_report(self, number: int, report: Report) -> None:
        """Show the epoch of a running trial; nothing is written to disk."""
        if "figures" in report:
            row = dataclasses.replace(self.table.rows[number], epochs=report[EPOCH], figures=report["figures"])
            self.table.rows[number] = row

    @keeps_error
    def conclude(self, number: int, report: Report) -> None:
        """Record the end of a trial from its last report and its run folder."""
        error = report.get("error")
        state = "failed" if error else "finished" if report.get("ended") else "stopped"
        if state == "stopped" and number not in self.stopped:
            return  # ended by --time-budget: it continues when the search is resumed
        row = dataclasses.replace(
            with_figures(self.table.rows[number], self.folder.trial(number), self.validation_images),
            state=state,
            error=error,
            is_transient=bool(report.get("is_transient")),
            seconds=report.get("seconds"),
            node=report.get("node"),
        )
        if folds := report.get("fold_accuracies"):
            mean, error_of_mean = mean_and_error(folds)
            row = dataclasses.replace(row, fold_accuracies=folds, mean_accuracy=mean, standard_error=error_of_mean)
        self.table.put(row)
        self.sampler.tell(row, row.objective(self.table.metric))
        self.display.trial_ended(row)

    def raise_if_failed(self) -> None:
        """Raises the first error of a method that Ray called."""
        if self.first_error is not None:
            raise self.first_error

    @contextmanager
    def raising_first_error(self) -> Iterator[None]:
        """At the end of the block raise the first error, in place of the exception that Ray made of it."""
        try:
            yield
        except Exception:
            self.raise_if_failed()
            raise
        self.raise_if_failed()


def missing(table: Table, trials: int) -> list[int]:
    """The trials that have not ended: first those already started."""
    started = [number for number, row in sorted(table.rows.items()) if not row.has_ended()]
    return started + [number for number in range(1, trials + 1) if number not in table.rows]


def record_ended(table: Table, options: TuneOptions, validation_images: int) -> None:
    """Record trials whose run has finished although the search was killed before it could record them.

    With --folds, a trial that trained all its epochs runs again, because its folds may be missing.
    """
    for row in list(table.rows.values()):
        run = table.search.trial(row.trial)
        if row.has_ended() or not run.has_status("finished"):
            continue
        trial = options.trial(row.options)
        history = [best for _, best in best_so_far(run, options.metric)]
        over = is_over(len(history), history[-1] if history else None, trial)
        if not over or options.folds is None:
            row = with_figures(row, run, validation_images)
            state = "finished" if over else "stopped"
            table.put(dataclasses.replace(row, state=state, error=None, is_transient=False))


def with_figures(row: Trial, run: RunFolder, validation_images: int) -> Trial:
    """The trial with the figures of its run's best epoch, if it has one."""
    try:
        status = read_whole_json(run.status_file, "best", "epoch")
        best = EpochRow.from_dict(status["best"])
    except (TlkitError, ValueError):
        return row
    return dataclasses.replace(
        row,
        figures=best.val,
        standard_error=standard_error(best.val["accuracy"], validation_images),
        epoch=best.epoch,
        epochs=status["epoch"],
    )


def best_so_far(run: RunFolder, metric: str) -> Iterator[tuple[int, EpochRow]]:
    """For each epoch in the history of a run: its number, and the row of the best epoch up to it."""
    try:
        rows = [EpochRow.from_dict(row) for row in read_json_lines(run.history_file, "epoch")]
    except (TlkitError, ValueError):
        return
    best: EpochRow | None = None
    for row in rows:
        if best is None or better(metric, row.val, best.val):
            best = row
        yield row.epoch, best
