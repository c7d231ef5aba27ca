"""Charts as inline SVG, styled by the page: line charts by epoch and the reliability diagram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tlkit.reports.markup import Markup, joined, tag
from tlkit.terminal import count
from tlkit.training.evaluation import Calibration

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 68, 14, 20, 42

MARKED_POINTS = 30
"""Up to this number of points, each is drawn as a dot with its value as a tooltip."""


@dataclass(frozen=True)
class Series:
    """A curve. look: its CSS class, which sets color and dashes."""

    name: str
    look: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Frame:
    """The plotting area: maps values to coordinates."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> str:
        return number(LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT))

    def up(self, value: float) -> str:
        return number(HEIGHT - BOTTOM - (value - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM))

    def axes(self, x_ticks: Sequence[float], y_ticks: Sequence[float], x_name: str, y_name: str) -> Markup:
        """Grid lines, tick labels and axis names."""
        across = [
            tag("text", short(tick), x=self.across(tick), y=HEIGHT - BOTTOM + 17, class_="tick middle")
            for tick in x_ticks
        ]
        upwards = [
            tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=self.up(tick), y2=self.up(tick), class_="grid")
            + tag("text", short(tick), x=LEFT - 8, y=self.up(tick), dy="0.35em", class_="tick end")
            for tick in y_ticks
        ]
        middle = number((TOP + HEIGHT - BOTTOM) / 2)
        names = [
            tag("text", x_name, x=number((LEFT + WIDTH - RIGHT) / 2), y=HEIGHT - 5, class_="axis middle"),
            tag("text", y_name, x=13, y=middle, transform=f"rotate(-90 13 {middle})", class_="axis middle"),
        ]
        return joined(*map(Markup, upwards), *across, *names)


def line_chart(title: str, y_name: str, series: Sequence[Series], best: int | None) -> Markup:
    """A line chart by epoch with a legend. best: the epoch to mark."""
    shown = [s for s in series if s.points]
    if not shown:
        return Markup()
    values = [y for s in shown for _, y in s.points]
    last = max(x for s in shown for x, _ in s.points)
    low, high = (0.0, max(values)) if min(values) >= 0 else (min(values), max(values))
    if high <= 1 and min(values) > 0.5:  # values near 1: zoom in, or their differences would be invisible
        low, high = math.floor(20 * min(values) - 0.2) / 20, 1.0
    ticks = nice_ticks(low, high)
    frame = Frame((1, max(last, 2)), (ticks[0], ticks[-1]))
    marks: list[Markup] = []
    if best is not None:
        x = frame.across(best)
        anchor = "end" if float(x) > WIDTH - 60 else "middle"
        marks.append(tag("line", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM, class_="best"))
        marks.append(tag("text", f"best: {best}", x=x, y=TOP - 7, class_=f"tick {anchor}"))
    words = [f"{s.name} from {s.points[0][1]:.4g} to {s.points[-1][1]:.4g}" for s in shown]
    picture = tag(
        "svg",
        tag("title", f"{title} by epoch: {'; '.join(words)}"),
        frame.axes(epoch_ticks(int(last)), ticks, "epoch", y_name),
        *marks,
        *(curve(frame, s) for s in shown),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
    )
    return tag("figure", tag("figcaption", tag("b", title), legend(shown)), picture, class_="chart")


def curve(frame: Frame, series: Series) -> Markup:
    """A line through the points; of a few points each with its value."""
    where = [(frame.across(x), frame.up(y)) for x, y in series.points]
    line = tag("polyline", points=" ".join(f"{x},{y}" for x, y in where), class_=f"curve {series.look}")
    if len(where) > MARKED_POINTS:
        return line
    dots = [
        tag("circle", tag("title", f"epoch {x:.0f}: {series.name} {y:.4g}"), cx=cx, cy=cy, r=3, class_=series.look)
        for (x, y), (cx, cy) in zip(series.points, where, strict=True)
    ]
    return joined(line, *dots)


def legend(series: Sequence[Series]) -> Markup:
    """The name of each curve beside a piece of it."""
    lines = [tag("line", x1=0, x2=22, y1=6, y2=6, class_=f"curve {s.look}") for s in series]
    entries = [
        tag("span", tag("svg", line, viewBox="0 0 22 12"), s.name) for line, s in zip(lines, series, strict=True)
    ]
    return tag("span", *entries, class_="legend")


def reliability_chart(calibration: Calibration) -> Markup:
    """Accuracy by confidence: bars that end on the diagonal are perfectly calibrated."""
    frame = Frame((0, 1), (0, 1))
    columns = (calibration.samples, calibration.confidence, calibration.accuracy)
    most, bars, words = max(1, int(calibration.samples.max())), list[Markup](), list[str]()
    for (low, high), samples, confidence, accuracy in zip(pairwise(calibration.edges), *columns, strict=True):
        if not samples:
            continue
        words.append(f"confidence {low:.0%} to {high:.0%}: {count(samples, 'image')}, accuracy {accuracy:.0%}")
        y = frame.up(confidence)
        line = tag("line", x1=frame.across(low), x2=frame.across(high), y1=y, y2=y, class_="confidence")
        shown = (bar(frame, low, high, accuracy, "share"), line, bar(frame, low, high, 0.12 * samples / most, "count"))
        bars.append(tag("g", tag("title", words[-1]), *shown))
    fifths = [0, 0.2, 0.4, 0.6, 0.8, 1]
    start, end = frame.across(0), frame.across(1)
    return tag(
        "svg",
        tag("title", f"Reliability diagram. {'; '.join(words)}"),
        frame.axes(fifths, fifths, "confidence", "accuracy"),
        *bars,
        tag("line", x1=start, y1=frame.up(0), x2=end, y2=frame.up(1), class_="curve diagonal"),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
    )


def bar(frame: Frame, low: float, high: float, height: float, look: str) -> Markup:
    """A bar from low to high, starting at the x axis."""
    x, y = float(frame.across(low)) + 1, frame.up(height)
    width, height = float(frame.across(high)) - x - 1, float(frame.up(0)) - float(y)
    return tag("rect", x=number(x), y=y, width=number(width), height=number(height), class_=look)


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round tick values from at most low to at least high."""
    if high <= low:
        high = low + (abs(low) or 1)
    step = 10 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if (high - low) / (step * factor) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def epoch_ticks(last: int) -> list[float]:
    """Ticks of the epoch axis: 1, then round numbers."""
    step = max(1, round(nice_ticks(0, max(last, 1))[1]))
    return [1, *(float(epoch) for epoch in range(step, last + 1, step) if epoch > 1 + step / 3)]


def number(value: float) -> str:
    """Format a coordinate."""
    return f"{value:.1f}".removesuffix(".0")


def short(value: float) -> str:
    """Format a tick label."""
    return f"{value:.6g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.0e}"
