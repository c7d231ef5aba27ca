"""The trials of a search: what each changes, how it stands, what came out. On disk after every change, whole."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from tlkit.errors import DataError, MissingInputError
from tlkit.files.atomic import write_atomically
from tlkit.files.inputs import open_input
from tlkit.options.space import Point
from tlkit.training.metrics import METRICS, validation_figures
from tlkit.tuning.folder import SearchFolder

ENDED = ("finished", "stopped", "failed")
"""How a trial stands that is not trained again; others are running, or were when the search was stopped."""


@dataclass(frozen=True)
class Trial:
    """A row of the table.

    epoch: of the best one. figures: the validation metrics of that epoch, each a field of its own in files.
    fold_accuracies: of each division under --folds. images_per_second, parameters: of backbone and head together.
    passing: whether the error may be gone the next time.
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
    passing: bool = False

    def has_ended(self) -> bool:
        """Whether nothing is left to do: what failed for a passing reason is tried again when the search goes on."""
        return self.state in ENDED and not self.passing

    def value(self, metric: str) -> float | None:
        """The metric, or the mean over folds, larger being better; None if the trial failed or has no epoch."""
        if self.state == "failed" or metric not in self.figures:
            return None
        return self.mean_accuracy if self.mean_accuracy is not None else METRICS[metric].merit(self.figures[metric])

    def objective(self, metric: str) -> tuple[bool, float, float]:
        """What trials are ranked by, larger is better: whether the folds were judged, as a figure of one division says
        less; then the value; then the loss."""
        value = self.value(metric)
        if value is None:
            return False, -math.inf, -math.inf
        return self.mean_accuracy is not None, value, -self.figures["loss"]

    def to_dict(self) -> dict[str, Any]:
        """The fields as files have them: a field for each metric in the place of figures."""
        values: dict[str, Any] = {}
        for one in dataclasses.fields(self):
            if one.name == "figures":
                values.update({name: self.figures.get(name) for name in METRICS})
            else:
                values[one.name] = getattr(self, one.name)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of to_dict; files of older versions lack some metrics."""
        figures = {name: values[name] for name in METRICS if values.get(name) is not None}
        names = [one.name for one in dataclasses.fields(cls) if one.name != "figures"]
        return cls(**{name: values[name] for name in names}, figures=figures)


@dataclass
class Table:
    """All trials that were begun, by number. metric: what they are ranked by."""

    search: SearchFolder
    metric: str
    rows: dict[int, Trial] = field(default_factory=dict)

    @classmethod
    def read(cls, search: SearchFolder, metric: str) -> Table:
        """The table as it was last written; empty if it never was. Raises DataError if it is damaged."""
        table = cls(search, metric)
        try:
            with open_input(search.results_lines) as file:
                for line in file:
                    row = json.loads(line)
                    trial = Trial.from_dict(row)
                    table.rows[trial.trial] = trial
        except MissingInputError:
            return table
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(search.results_lines, f"is damaged ({type(error).__name__})") from error
        return table

    def put(self, trial: Trial) -> None:
        """Begin a trial, or say what became of it."""
        self.rows[trial.trial] = trial
        self.write_lines()

    def write_lines(self) -> None:
        text = "".join(json.dumps(self.rows[n].to_dict(), allow_nan=False) + "\n" for n in sorted(self.rows))
        write_atomically(self.search.results_lines, lambda file: file.write(text.encode()))

    def write_csv(self) -> None:
        """The same for spreadsheets, best first, with a column for each option that is tried."""
        rows = list(self.ranked())
        tried = list(rows[0].options) if rows else []
        text = io.StringIO()
        names = [name for name in Trial(0, {}).to_dict() if name not in ("options", "fold_accuracies")]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*names, *tried])
        for row in rows:
            values = row.to_dict()
            writer.writerow([*(values[name] for name in names), *(row.options.get(name) for name in tried)])
        content = text.getvalue().encode(errors="backslashreplace")  # an error may name a file that is not UTF-8
        write_atomically(self.search.results_table, lambda file: file.write(content))

    def ranked(self) -> Iterator[Trial]:
        """Best first; of equals, the one that was begun first."""
        return iter(sorted(self.rows.values(), key=lambda row: (*(-x for x in row.objective(self.metric)), row.trial)))

    def best(self) -> Trial | None:
        """The best trial that has ended and did not fail."""
        ended = (row for row in self.ranked() if row.state in ("finished", "stopped") and row.figures)
        return next(ended, None)

    def count(self, *states: str) -> int:
        return sum(row.state in states for row in self.rows.values())


def standard_error(accuracy: float, samples: int) -> float:
    """Of a share that was counted on so many images."""
    return math.sqrt(accuracy * (1 - accuracy) / max(samples, 1))


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """The mean of some values, and its standard error."""
    mean = math.fsum(values) / len(values)
    spread = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(spread / len(values))


def with_figures(trial: Trial, best: Mapping[str, Any] | None, history: int, samples: int) -> Trial:
    """A trial with the figures of its run's best epoch, if it has one; samples: of the validation images."""
    if best is None:
        return trial
    figures = validation_figures(best)
    return dataclasses.replace(
        trial,
        figures=figures,
        standard_error=standard_error(figures["accuracy"], samples),
        epoch=best["epoch"],
        epochs=history,
    )
