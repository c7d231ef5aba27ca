"""The trials of a search from the first to the last: what is tried next, and what became of each."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from tlkit.errors import TlkitError
from tlkit.features.cache import cache_folder
from tlkit.files.inputs import open_input
from tlkit.files.json_file import read_whole_json
from tlkit.files.run_folder import RunFolder
from tlkit.options import FinetuneOptions, TuneOptions
from tlkit.training.loop import is_over
from tlkit.training.metrics import better, merit_of, validation_figures
from tlkit.tuning.folder import SearchFolder
from tlkit.tuning.leaderboard import Display
from tlkit.tuning.prepare import Prepared
from tlkit.tuning.results import Table, Trial, mean_and_error, with_figures
from tlkit.tuning.samplers import Points
from tlkit.tuning.trial import Assignment


class OngoingSearch:
    """What is tried next, and what became of it: on disk before Ray hears of it, or when Ray reports it.

    Trials that were begun before come first, each in the folder and with the point that it had.
    """

    def __init__(
        self,
        folder: SearchFolder,
        options: TuneOptions,
        table: Table,
        points: Points,
        prepared: Prepared,
        reports: list[int],
        validation_images: int,
        display: Display,
    ) -> None:
        """reports: the epochs after which the scheduler decides."""
        self.folder = folder
        self.options = options
        self.table = table
        self.points = points
        self.prepared = prepared
        self.reports = reports
        self.validation_images = validation_images
        self.display = display
        self.halted: set[int] = set()
        self.waiting = missing(table, options.trials())

    def next_assignment(self) -> Assignment | None:
        """The next trial, written down before it begins; None if there is no other."""
        if not self.waiting:
            return None
        number = self.waiting.pop(0)
        known = self.table.rows.get(number)
        point = known.options if known else self.points.point(number)
        options = self.options.trial(point)
        reports = [epoch for epoch in self.reports if epoch < options.planned_epochs()]
        run = self.folder.trial(number)
        row = known or Trial(number, point, path=os.path.relpath(run.path, self.folder.path))
        begun = dataclasses.replace(row, state="running", error=None, passing=False)
        self.table.put(dataclasses.replace(begun, **self.prepared.facts_of(options)))
        return Assignment(number, point, run.path, self.shared_by(options), reports, self.options.folds, cache_folder())

    def shared_by(self, trial: FinetuneOptions) -> dict[str, Any]:
        """What a trial does not change, with what is decided for it: as many processes decode as it has cores."""
        workers = (self.options.cpus_per_trial or 1) if trial.workers is None else trial.workers
        return {**self.options.shared(), "engine": self.prepared.engine_of(trial), "workers": workers}

    def past_reports(self) -> dict[int, list[dict[str, Any]]]:
        """What trials reported before, by their numbers; without the epoch at which one goes on, as it reports that
        again."""
        return {number: self.reports_of(row) for number, row in self.table.rows.items()}

    def reports_of(self, row: Trial) -> list[dict[str, Any]]:
        """What the scheduler is to know of a trial of before."""
        metric = self.options.metric
        history = [*best_so_far(self.folder.trial(row.trial), metric)]
        known = history if row.has_ended() else history[:-1]
        return [{"epoch": epoch, "merit": merit_of(best, metric)} for epoch, best in known if epoch in self.reports]

    def stop(self, number: int) -> None:
        """The scheduler has seen enough of a trial."""
        self.halted.add(number)

    def record_result(self, number: int, figures: Mapping[str, Any]) -> None:
        """A trial is at an epoch; that is shown, and not kept."""
        if "figures" in figures:
            now = dataclasses.replace(self.table.rows[number], epochs=figures["epoch"], figures=figures["figures"])
            self.table.rows[number] = now

    def conclude(self, number: int, figures: Mapping[str, Any], error: str | None) -> None:
        """A trial is over; what came out is read from its run folder."""
        error = error or figures.get("error")
        state = "failed" if error else "finished" if figures.get("ended") else "stopped"
        if state == "stopped" and number not in self.halted:
            return  # the time was up: it goes on when the search does
        row = dataclasses.replace(
            figures_of(self.table.rows[number], self.folder.trial(number), self.validation_images),
            state=state,
            error=error,
            passing=bool(figures.get("passing")),
            seconds=figures.get("seconds"),
            node=figures.get("node"),
        )
        if folds := figures.get("fold_accuracies"):
            mean, spread = mean_and_error(folds)
            row = dataclasses.replace(row, fold_accuracies=folds, mean_accuracy=mean, standard_error=spread)
        self.table.put(row)
        self.points.tell(row, row.value(self.table.metric))
        self.display.ended(row)


def missing(table: Table, trials: int) -> list[int]:
    """The trials that have not ended: those that were begun, then those that were not."""
    begun = [number for number, row in sorted(table.rows.items()) if not row.has_ended()]
    return begun + [number for number in range(1, trials + 1) if number not in table.rows]


def take_ended(folder: SearchFolder, table: Table, options: TuneOptions, validation_images: int) -> None:
    """Count trials as ended whose runs did end while nobody was left to write it down; of those that were not stopped
    early, folds may be missing."""
    for number, row in list(table.rows.items()):
        run = folder.trial(number)
        if row.has_ended() or not run.has_status("finished"):
            continue
        row = figures_of(row, run, validation_images)
        trial = options.trial(row.options)
        history = [best for _, best in best_so_far(run, options.metric)]
        over = is_over(len(history), history[-1] if history else None, trial.planned_epochs(), trial.patience)
        if not over or options.folds is None:
            state = "finished" if over else "stopped"
            table.put(dataclasses.replace(row, state=state, error=None, passing=False))


def figures_of(row: Trial, run: RunFolder, validation_images: int) -> Trial:
    """A trial with the figures of its run, as far as that got."""
    try:
        status = read_whole_json(run.status_file, "best", "epoch")
    except TlkitError:
        return row
    return with_figures(row, status["best"], status["epoch"], validation_images)


def best_so_far(run: RunFolder, metric: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """For each epoch that a run has done, the best one until then."""
    try:
        with open_input(run.history_file) as file:
            rows = [json.loads(line) for line in file]
    except (TlkitError, ValueError):
        return
    best: dict[str, Any] | None = None
    for row in rows:
        if best is None or better(metric, validation_figures(row), validation_figures(best)):
            best = row
        yield row["epoch"], best
