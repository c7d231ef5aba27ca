"""The table of trials: results.jsonl, rewritten after every change, and results.csv."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tlkit.errors import DataError, MissingInputError
from tlkit.files.json_file import read_json_lines
from tlkit.options.space import Point
from tlkit.training.metrics import METRICS
from tlkit.tuning.search_folder import SearchFolder

ENDED = ("finished", "stopped", "failed")
"""States of a trial that is not trained again. The other state is "running", also of a search that was stopped."""

STORED_AS = {"is_transient": "passing"}
"""Fields of Trial with another name in files."""


@dataclass(frozen=True)
class Trial:
    """A row of the table.

    epoch: the best one. figures: its validation metrics, in files one field each. fold_accuracies: with --folds.
    images_per_second: of the backbone. parameters: of backbone and head. seconds: of training.
    is_transient: whether a retry may succeed.
    """

    trial: int
    options: Point
    state: str = "running"
    path: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    mean_accuracy: float | None = None
    standard_error: float | None = None
    fold_accuracies: list[float] | None = None
    epoch: int | None = None
    epochs: int = 0
    images_per_second: float | None = None
    parameters: int | None = None
    seconds: float | None = None
    node: str | None = None
    error: str | None = None
    is_transient: bool = False

    def has_ended(self) -> bool:
        """Whether the trial is complete. A transient failure is not: a resumed search retries it."""
        return self.state in ENDED and not self.is_transient

    def mean_figures(self) -> Mapping[str, float]:
        """The metrics; with folds, accuracy is the mean over folds."""
        return self.figures if self.mean_accuracy is None else {**self.figures, "accuracy": self.mean_accuracy}

    def objective(self, metric: str) -> float | None:
        """The metric, or the mean accuracy over folds; larger is better. None if the trial failed or has no epoch."""
        if self.state == "failed" or metric not in self.figures:
            return None
        return self.mean_accuracy if self.mean_accuracy is not None else METRICS[metric].objective(self.figures[metric])

    def rank_key(self, metric: str) -> tuple[bool, float, float]:
        """Sort key; larger is better. Trials with folds come before those without, whose accuracy is less certain."""
        objective = self.objective(metric)
        if objective is None:
            return False, -math.inf, -math.inf
        return self.mean_accuracy is not None, objective, -self.figures["loss"]

    def to_dict(self) -> dict[str, object]:
        """The row as in files: each metric is a field in the place of `figures`."""
        values = dict[str, object]()
        for one in dataclasses.fields(self):
            if one.name == "figures":
                values |= {name: self.figures.get(name) for name in METRICS}
            else:
                values[STORED_AS.get(one.name, one.name)] = getattr(self, one.name)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Trial:
        """The inverse of to_dict. Files of older versions lack some fields."""
        figures = {name: values[name] for name in METRICS if values.get(name) is not None}
        stored = {one.name: STORED_AS.get(one.name, one.name) for one in dataclasses.fields(cls)}
        return cls(figures=figures, **{name: values[key] for name, key in stored.items() if key in values})


@dataclass
class Table:
    """All started trials by number. metric: ranks them."""

    search: SearchFolder
    metric: str
    rows: dict[int, Trial] = field(default_factory=dict)

    @classmethod
    def read(cls, search: SearchFolder, metric: str) -> Table:
        """The table on disk; empty if there is none. Raises DataError if it is damaged."""
        try:
            rows = read_json_lines(search.results_lines, "trial", "options", "state")
        except MissingInputError:
            rows = []
        for number, row in enumerate(rows, 1):
            values = row["trial"], row["options"], row["state"]
            valid = all(isinstance(value, kind) for value, kind in zip(values, (int, dict, str), strict=True))
            if not valid or row["trial"] < 1:
                raise DataError(search.results_lines, f"line {number} is not a trial")
        return cls(search, metric, {row["trial"]: Trial.from_dict(row) for row in rows})

    def put(self, *trials: Trial) -> None:
        """Add or replace rows, on disk too."""
        self.rows.update({trial.trial: trial for trial in trials})
        text = "".join(json.dumps(self.rows[n].to_dict(), allow_nan=False) + "\n" for n in sorted(self.rows))
        self.search.own.write(self.search.results_lines, lambda file: file.write(text.encode()))

    def write_csv(self) -> None:
        """Write results.csv: best trial first, with a column for each option that is tried."""
        rows = self.ranked()
        tried = list(rows[0].options) if rows else []
        names = [name for name in Trial(0, {}).to_dict() if name not in ("options", "fold_accuracies")]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*names, *tried])
        for row in rows:
            values = row.to_dict()
            writer.writerow([*map(values.get, names), *map(row.options.get, tried)])
        content = text.getvalue().encode(errors="backslashreplace")  # an error may name a file that is not UTF-8
        self.search.own.write(self.search.results_table, lambda file: file.write(content))

    def ranked(self) -> list[Trial]:
        """Best first; equal trials by number."""
        return sorted(self.rows.values(), key=lambda row: (*(-x for x in row.rank_key(self.metric)), row.trial))

    def best(self) -> Trial | None:
        """The best trial that has ended without failing."""
        return next((row for row in self.ranked() if row.state in ("finished", "stopped") and row.figures), None)

    def count(self, *states: str) -> int:
        return sum(row.state in states for row in self.rows.values())


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """The mean of values and its standard error."""
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
