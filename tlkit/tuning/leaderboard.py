"""The table of trials for the terminal, and the progress of a search."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Mapping

from tlkit.options.space import described, shown
from tlkit.terminal import STANDARD_ERROR, compact, escape_control_chars, log_status, write_lines
from tlkit.training.metrics import METRICS, Metric, metrics_text, shown_metrics
from tlkit.tuning.results import Table, Trial

MAX_ROWS = 20
"""Rows of a leaderboard; results.csv has all."""

REDRAW_SECONDS = 0.5


def leaderboard(table: Table, most: int = MAX_ROWS) -> list[str]:
    """Lines of text: a heading, and one line for each of the best trials."""
    rows = table.ranked()
    if not rows:
        return []
    has_speed = any(row.images_per_second is not None for row in rows)
    tried = list(rows[0].options)
    metrics = shown_metrics(table.metric)
    labels = [metric.label for metric in metrics.values()]
    heading = ["trial", *tried, labels[0], "±", *labels[1:], "epochs"]  # ±: standard error of the first, accuracy
    heading += ["images/s", "parameters"] if has_speed else []
    lines = [heading, *(cells(row, tried, metrics, has_speed) for row in rows[:most])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    hidden = len(rows) - most
    return text + ([f"and {hidden} more"] if hidden > 0 else [])


def cells(row: Trial, tried: list[str], metrics: Mapping[str, Metric], has_speed: bool) -> list[str]:
    """A trial as the cells of a line."""
    texts = [metric.text(row.mean_figures().get(name)) for name, metric in metrics.items()]
    figures = [texts[0], METRICS["accuracy"].text(row.standard_error), *texts[1:]]
    if row.state == "failed":
        figures = ["failed", *[""] * len(metrics)]
    epochs = f"{row.epochs}{ {'running': ' ...', 'stopped': ' stopped'}.get(row.state, '') }"
    speed = f"{row.images_per_second:.0f}" if row.images_per_second else ""
    size = compact(row.parameters) if row.parameters else ""
    values = [shown(row.options.get(name)) for name in tried]
    return [f"{row.trial}", *values, *figures, epochs, *([speed, size] if has_speed else [])]


class Display:
    """Progress of a search: on a terminal a table that is redrawn, else a line for each trial that has ended."""

    def __init__(self, table: Table, trials: int) -> None:
        self.table = table
        self.trials = trials
        self.is_live = os.isatty(STANDARD_ERROR) and os.environ.get("TERM", "dumb") != "dumb"
        self.height = 0
        self.drawn_at = 0.0

    def trial_ended(self, row: Trial) -> None:
        """Print a line unless the table is live."""
        if not self.is_live:
            log_status("trial", f"{self.progress()}  {summary(row, self.table.metric)}")

    def redraw(self) -> None:
        """Redraw the live table, at most twice a second."""
        if self.is_live and time.monotonic() - self.drawn_at > REDRAW_SECONDS:
            self.drawn_at = time.monotonic()
            columns, lines = shutil.get_terminal_size()
            table = leaderboard(self.table, max(1, min(MAX_ROWS, lines - 6)))
            self.draw([f"trials    {self.progress()}", *table], columns)

    def draw(self, lines: list[str], columns: int) -> None:
        """Replace the lines drawn before."""
        up = f"\x1b[{self.height}A" if self.height else ""
        text = "".join(f"\x1b[2K{escape_control_chars(line)[: columns - 1]}\n" for line in lines)
        self.height = len(lines)
        with contextlib.suppress(OSError):
            write_lines(STANDARD_ERROR, f"{up}\x1b[J{text}".encode(sys.stderr.encoding or "utf-8", "replace"))

    def clear(self) -> None:
        """Remove the live table."""
        if self.height:
            self.draw([], 0)

    def progress(self) -> str:
        """7/50, 2 running, 1 failed"""
        ended = self.table.count("finished", "stopped", "failed")
        words = {"running": "running", "stopped": "stopped early", "failed": "failed"}
        parts = [f"{number} {word}" for state, word in words.items() if (number := self.table.count(state))]
        return ", ".join([f"{ended}/{self.trials}", *parts])


def summary(row: Trial, metric: str) -> str:
    """One trial in one line."""
    if row.state == "failed":
        return f"{described(row.options)}  failed: {row.error}"
    figures = metrics_text(row.mean_figures(), dict.fromkeys(["accuracy", metric, "loss"]))
    return f"{described(row.options)}  {figures}  {row.state} after epoch {row.epochs}"
