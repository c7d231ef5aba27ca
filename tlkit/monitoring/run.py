"""What a run shows of itself: to tools as it goes on, and as a report when it is done. Loads no torch by itself."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from PIL import Image, ImageDraw, ImageFont

from tlkit.errors import escape_name
from tlkit.files.run_folder import RunFolder
from tlkit.monitoring.monitor import CLOSE_TIMEOUT, About, Monitor, RunSummary, open_monitor, require_installed
from tlkit.options import FinetuneOptions
from tlkit.reports.facts import ReportData
from tlkit.reports.gather import report
from tlkit.terminal import log_status

STOPPED_SECONDS = 3.0
"""How long a run that was stopped, or failed, waits for what watches it."""


@contextmanager
def watching(run: RunFolder, options: FinetuneOptions, classes: Sequence[str]) -> Iterator[Monitor]:
    """Inside, the run is told to what --log names. Raises UnavailableError where its library is missing."""
    require_installed(options.sinks())
    name = os.path.basename(os.path.abspath(run.path))
    about = About(run.path, name, options.to_portable_dict(), classes, options.metric)
    monitor = open_monitor(options.sinks(), about, log_status)
    try:
        yield monitor
    finally:
        monitor.close(STOPPED_SECONDS)


def conclude(run: RunFolder, monitor: Monitor) -> None:
    """Write the report, give its pictures to what watches, and wait for that. What fails is a warning: the model is
    there."""
    report(run, lambda facts: monitor.conclude(conclusion(facts)) if monitor.watchers else None)
    monitor.close(CLOSE_TIMEOUT)


def conclusion(facts: ReportData) -> RunSummary:
    """The last words about a run: the figures of its best epoch, and pictures."""
    best = {name: value for name, value in (facts.best or {}).items() if isinstance(value, (int, float))}
    pictures: dict[str, bytes] = {}
    if facts.measured is not None:
        names = [figures.name for figures in facts.measured.classes]
        pictures["confusion matrix"] = confusion_picture(names, facts.measured.confusion)
        shown = [(m.thumbnail, m.label, m.predicted, m.probability) for m in facts.measured.mistakes if m.thumbnail]
        if shown:
            pictures["most confident mistakes"] = mistakes_picture(shown)
    return RunSummary(len(facts.history), {f"best/{name}": value for name, value in best.items()}, pictures)


INK, SOFT, PAPER = (28, 36, 48), (110, 120, 134), (255, 255, 255)


RIGHT, WRONG = (36, 87, 214), (194, 53, 43)


MATRIX_SIDE = 900


LEGIBLE_CELL = 11
"""Pixels that a class must have for its name."""


GAP, LINE = 12, 20


Color = tuple[int, int, int]


def confusion_picture(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> bytes:
    """A PNG: rows are the true class, columns the predicted one, shade is the share of the row."""
    cell = max(3, min(64, MATRIX_SIDE // len(classes)))
    named = cell >= LEGIBLE_CELL
    font = ImageFont.load_default(max(9, min(16, cell - 2)))
    names = [shortened(name) for name in classes]
    margin = round(max(font.getlength(name) for name in names)) + 2 * GAP if named else 2 * GAP
    size = margin + cell * len(classes) + GAP
    image = Image.new("RGB", (size, size), PAPER)
    draw = ImageDraw.Draw(image)
    for true, row in enumerate(matrix):
        for guess, count in enumerate(row):
            left, top = margin + cell * guess, margin + cell * true
            share = count / max(sum(row), 1)
            full = RIGHT if true == guess else WRONG
            shade = mixed(PAPER, full, 0.2 + 0.8 * share) if count else (244, 245, 248)
            draw.rectangle((left, top, left + cell - 2, top + cell - 2), shade)
            if count and cell >= 24:
                ink = PAPER if share > 0.45 else INK
                draw.text((left + cell / 2 - 1, top + cell / 2 - 1), str(count), ink, font, anchor="mm")
    if named:
        for place, name in enumerate(names):
            middle = margin + cell * place + cell / 2
            draw.text((margin - GAP / 2, middle), name, INK, font, anchor="rm")
            upright(image, name, font, round(middle), margin - GAP // 2)
    draw.text((GAP / 2, GAP / 2), "is: down", SOFT, ImageFont.load_default(10))
    draw.text((GAP / 2, GAP / 2 + 12), "said: across", SOFT, ImageFont.load_default(10))
    return as_png(image)


def upright(image: Image.Image, name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, x: int, y: int) -> None:
    """A name from y upwards, its middle at x."""
    label = Image.new("RGB", (round(font.getlength(name)) + 2, LINE), PAPER)
    ImageDraw.Draw(label).text((0, LINE / 2), name, INK, font, anchor="lm")
    turned = label.transpose(Image.Transpose.ROTATE_90)
    image.paste(turned, (x - turned.width // 2, y - turned.height))


def mistakes_picture(mistakes: Sequence[tuple[bytes, str, str, float]], columns: int = 6) -> bytes:
    """A PNG of thumbnails, each a JPEG file with its class, what was said of it, and how surely."""
    thumbnails = [Image.open(io.BytesIO(content)) for content, *_ in mistakes]
    side = max(image.width for image in thumbnails)
    rows = -(-len(mistakes) // columns)
    step = side + GAP
    image = Image.new("RGB", (GAP + step * min(columns, len(mistakes)), GAP + rows * (step + 2 * LINE)), PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for place, (thumbnail, (_, label, predicted, probability)) in enumerate(zip(thumbnails, mistakes, strict=True)):
        left, top = GAP + place % columns * step, GAP + place // columns * (step + 2 * LINE)
        image.paste(thumbnail, (left, top))
        draw.text((left, top + side + 4), f"{shortened(predicted, 15)} {probability:.0%}", WRONG, font)
        draw.text((left, top + side + LINE), f"is {shortened(label)}", INK, font)
    return as_png(image)


def mixed(one: Color, other: Color, share: float) -> Color:
    """A color between two."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def shortened(name: str, most: int = 20) -> str:
    text = escape_name(name)
    return text if len(text) <= most else text[: most - 1] + "…"


def as_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
