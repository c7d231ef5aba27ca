"""Log a run while it trains; at its end write the report and log its images. Loads no torch."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tlkit.errors import escape_name
from tlkit.files.run_folder import RunFolder
from tlkit.monitoring.monitor import CLOSE_TIMEOUT, Monitor, RunInfo, RunSummary, open_monitor, require_installed
from tlkit.options import FinetuneOptions
from tlkit.reports.facts import ReportData
from tlkit.reports.gather import report
from tlkit.reports.markup import shorten
from tlkit.terminal import log_status

STOPPED_TIMEOUT = 3.0
"""Seconds that a stopped or failed run waits for its tools."""


@contextmanager
def run_monitor(run: RunFolder, options: FinetuneOptions, classes: Sequence[str]) -> Iterator[Monitor]:
    """Monitor with the tools of --log, closed at the end. Raises UnavailableError if a library is missing."""
    require_installed(options.sinks())
    name = os.path.basename(os.path.abspath(run.path))
    info = RunInfo(run.path, name, options.to_portable_dict(), classes)
    monitor = open_monitor(options.sinks(), info, log_status)
    try:
        yield monitor
    finally:
        monitor.close(STOPPED_TIMEOUT)


def report_and_close(run: RunFolder, monitor: Monitor) -> None:
    """Write the report, log the summary, and wait for the tools. Failures become warnings: the model is written."""
    report(run, lambda data: monitor.log_summary(run_summary(data)) if monitor.sinks else None)
    monitor.close(CLOSE_TIMEOUT)


def run_summary(data: ReportData) -> RunSummary:
    """The figures of the best epoch, the confusion matrix and the most confident mistakes."""
    figures = {f"best/{name}": value for name, value in (data.best.to_dict() if data.best else {}).items()}
    images: dict[str, bytes] = {}
    if data.measured is not None:
        evaluation = data.measured.evaluation
        if len(evaluation.classes) <= MOST_CLASSES:
            images["confusion matrix"] = confusion_image(evaluation.classes, evaluation.confusion.matrix())
        shown = [(m.thumbnail, m.label, m.predicted, m.probability) for m in data.measured.mistakes if m.thumbnail]
        if shown:
            images["most confident mistakes"] = mistakes_image(shown)
    return RunSummary(len(data.history), figures, images)


INK, PAPER, RIGHT, WRONG = (28, 36, 48), (255, 255, 255), (36, 87, 214), (194, 53, 43)

MOST_CLASSES = 512
"""Classes of the largest confusion matrix that is drawn: one of 10,000 would take gigabytes."""

MATRIX_SIDE = 900
"""Pixels of a large confusion matrix."""

NAMED_CELL, COUNTED_CELL = 11, 24
"""Pixels of a cell from which on classes are named, and counts are written."""

GAP, LINE = 12, 20


def confusion_image(classes: Sequence[str], counts: NDArray[np.int64]) -> bytes:
    """PNG of a confusion matrix [C, C]. Rows: true class; columns: predicted class; shade: share of row."""
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    strength = np.where(counts > 0, 0.2 + 0.8 * share, 0)[..., None]
    full = np.where(np.eye(len(classes), dtype=bool)[..., None], RIGHT, WRONG)
    shades = Image.fromarray((np.array(PAPER) * (1 - strength) + full * strength).round().astype(np.uint8))

    cell = max(3, min(64, MATRIX_SIDE // len(classes)))
    side = cell * len(classes)
    font = ImageFont.load_default(max(9, min(16, cell - 2)))
    labels = [f"{place} {shorten(escape_name(name))}" for place, name in enumerate(classes)]
    left = round(max(map(font.getlength, labels))) + 2 * GAP if cell >= NAMED_CELL else GAP
    image = Image.new("RGB", (left + side + GAP, 3 * LINE + side + GAP), PAPER)
    image.paste(shades.resize((side, side), Image.Resampling.NEAREST), (left, 3 * LINE))
    draw = ImageDraw.Draw(image)
    draw.text((GAP, 4), "rows: true class; columns: predicted class", INK, ImageFont.load_default(13))
    for row, label in enumerate(labels if cell >= NAMED_CELL else []):
        middle = cell * row + cell / 2
        draw.text((left - GAP / 2, 3 * LINE + middle), label, INK, font, anchor="rm")
        draw.text((left + middle, 2.5 * LINE), str(row), INK, font, anchor="mm")
    for row, column in np.argwhere(counts > 0) if cell >= COUNTED_CELL else []:
        center = (left + cell * (column + 0.5), 3 * LINE + cell * (row + 0.5))
        ink = PAPER if share[row, column] > 0.45 else INK
        draw.text(center, str(counts[row, column]), ink, font, anchor="mm")
    return to_png(image)


def mistakes_image(mistakes: Sequence[tuple[bytes, str, str, float]], columns: int = 6) -> bytes:
    """PNG of wrong predictions: thumbnail (a JPEG file), true class, predicted class and probability of each."""
    thumbnails = [Image.open(io.BytesIO(content)) for content, *_ in mistakes]
    side = max(image.width for image in thumbnails)
    rows = -(-len(mistakes) // columns)
    step = side + GAP
    image = Image.new("RGB", (GAP + step * min(columns, len(mistakes)), GAP + rows * (step + 2 * LINE)), PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for place, (thumbnail, (_, label, predicted, probability)) in enumerate(zip(thumbnails, mistakes, strict=True)):
        left, top = GAP + place % columns * step, GAP + place // columns * (step + 2 * LINE)
        image.paste(thumbnail, (left, top))
        draw.text((left, top + side + 4), f"{shorten(escape_name(predicted), 15)} {probability:.0%}", WRONG, font)
        draw.text((left, top + side + LINE), f"true: {shorten(escape_name(label), 15)}", INK, font)
    return to_png(image)


def to_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
