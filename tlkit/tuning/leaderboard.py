"""The table of trials for people: redrawn in place on a terminal while the search lasts, and once at its end."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Mapping

from tlkit.options.space import shown
from tlkit.terminal import STANDARD_ERROR, compact, escape_control_chars, log_status, print_error, write_lines
from tlkit.training.metrics import METRICS, Metric, metrics_text, shown_metrics
from tlkit.tuning.results import Table, Trial

SHOWN = 20
"""Trials of a leaderboard; results.csv has all."""


REDRAW_SECONDS = 0.5


def leaderboard(table: Table, most: int = SHOWN) -> list[str]:
    """A heading, and a line for each of the best trials."""
    rows = list(table.ranked())
    if not rows:
        return []
    has_speed = any(row.images_per_second is not None for row in rows)
    names = list(rows[0].options)
    metrics = shown_metrics(table.metric)
    heading = ["trial", *names, *with_error([metric.label for metric in metrics.values()], "±"), "epochs"]
    heading += ["images/s", "parameters"] if has_speed else []
    lines = [heading, *(cells(row, names, metrics, has_speed) for row in rows[:most])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    hidden = len(rows) - most
    return text + ([f"and {hidden} more"] if hidden > 0 else [])


def with_error(cells: list[str], error: str) -> list[str]:
    """Cells of metrics, with the standard error behind the first, accuracy."""
    return [cells[0], error, *cells[1:]]


def cells(row: Trial, names: list[str], metrics: Mapping[str, Metric], has_speed: bool) -> list[str]:
    """A trial as the cells of a line."""
    values = [shown(row.options.get(name)) for name in names]
    texts = [metric.text(figures_shown(row).get(name)) for name, metric in metrics.items()]
    figures = with_error(texts, METRICS["accuracy"].text(row.standard_error))
    if row.state == "failed":
        figures = ["failed", *[""] * len(metrics)]
    epochs = f"{row.epochs}{ {'running': ' ...', 'stopped': ' stopped'}.get(row.state, '') }"
    speed = [
        f"{row.images_per_second:.0f}" if row.images_per_second else "",
        compact(row.parameters) if row.parameters else "",
    ]
    return [f"{row.trial}", *values, *figures, epochs, *(speed if has_speed else [])]


def figures_shown(row: Trial) -> Mapping[str, float]:
    """The metrics of a trial, with the mean accuracy over folds where there are folds."""
    return row.figures if row.mean_accuracy is None else {**row.figures, "accuracy": row.mean_accuracy}


class Display:
    """Tells how the search stands: a table that is redrawn on a terminal, else a line for each trial that has ended."""

    def __init__(self, table: Table, trials: int) -> None:
        self.table = table
        self.trials = trials
        self.is_live = os.isatty(STANDARD_ERROR) and os.environ.get("TERM", "dumb") != "dumb"
        self.height = 0
        self.drawn_at = 0.0

    def ended(self, row: Trial) -> None:
        """A trial has ended."""
        if not self.is_live:
            log_status("trial", f"{self.progress()}  {summary(row, self.table.metric)}")

    def redraw(self) -> None:
        """On a terminal, at most twice a second."""
        if self.is_live and time.monotonic() - self.drawn_at > REDRAW_SECONDS:
            self.drawn_at = time.monotonic()
            columns, lines = shutil.get_terminal_size()
            table = leaderboard(self.table, max(1, min(SHOWN, lines - 6)))
            self.draw([f"trials    {self.progress()}", *table], columns)

    def draw(self, lines: list[str], columns: int) -> None:
        """Put lines where those drawn before are."""
        up = f"\x1b[{self.height}A" if self.height else ""
        text = "".join(f"\x1b[2K{escape_control_chars(line)[: columns - 1]}\n" for line in lines)
        self.height = len(lines)
        with contextlib.suppress(OSError):
            write_lines(STANDARD_ERROR, f"{up}\x1b[J{text}".encode(sys.stderr.encoding or "utf-8", "replace"))

    def clear(self) -> None:
        """Leave nothing of the live table."""
        if self.height:
            self.draw([], shutil.get_terminal_size().columns)
            self.height = 0

    def conclude(self) -> None:
        """The table as it stands in the end."""
        self.clear()
        print_error(*leaderboard(self.table))

    def progress(self) -> str:
        """7/50, 2 running, 1 failed"""
        ended = self.table.count("finished", "stopped", "failed")
        parts = [f"{ended}/{self.trials}"]
        for state, word in (("running", "running"), ("stopped", "stopped early"), ("failed", "failed")):
            if number := self.table.count(state):
                parts.append(f"{number} {word}")
        return ", ".join(parts)


def summary(row: Trial, metric: str) -> str:
    """One trial in one line."""
    values = " ".join(f"{name}={shown(value)}" for name, value in row.options.items())
    if row.state == "failed":
        return f"{values}  failed: {row.error}"
    names = dict.fromkeys(["accuracy", metric, "loss"])
    return f"{values}  {metrics_text(figures_shown(row), names)}  {row.state} after epoch {row.epochs}"
