"""Format the findings of tlkit check as text or JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tlkit.data.bad_images import error_fields, group_lines, lines_of
from tlkit.data.folder import Dataset, Sample, class_counts
from tlkit.data.image_file import ImageError
from tlkit.data.scan import Repeats
from tlkit.errors import escape_name, listing
from tlkit.files.json_file import label_fields, path_fields
from tlkit.terminal import count

MOST_CLASSES = 30
"""Largest number of classes listed in the text output."""

Size = tuple[int, int, int]
"""(pixels, width, height) of an image, so that sorting orders by area."""


@dataclass
class Report:
    """Findings. formats, modes, sizes: of readable images. tiny, several_frames: paths. stops: errors of finetune."""

    dataset: Dataset
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    sizes: list[Size] = field(default_factory=list)
    bad: list[ImageError] = field(default_factory=list)
    repeats: Repeats = field(default_factory=Repeats)
    tiny: list[str] = field(default_factory=list)
    several_frames: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)

    def size_range(self) -> dict[str, tuple[int, int]]:
        """(width, height) of the smallest, median and largest image."""
        if not self.sizes:
            return {}
        ordered = sorted(self.sizes)
        chosen = {"smallest": ordered[0], "median": ordered[len(ordered) // 2], "largest": ordered[-1]}
        return {name: (width, height) for name, (_, width, height) in chosen.items()}

    def class_counts(self) -> list[tuple[str, int, int]]:
        """(name, training images, validation images) of each class."""
        return [*zip(self.dataset.classes, *class_counts(self.dataset), strict=True)]


def as_text(report: Report) -> str:
    """Text: contents, findings, then whether finetune would train on the folder."""
    dataset = report.dataset
    images = count(len(dataset.images), "image")
    classes = count(len(dataset.classes), "class", "classes")
    lines = [
        f"{escape_name(dataset.root)}: {classes}, {images} ({escape_name(dataset.shape)})",
        "",
        *class_lines(report),
    ]
    lines += ["", f"formats   {tally(report.formats)}", f"modes     {tally(report.modes)}"]
    for name, (width, height) in report.size_range().items():
        lines.append(f"{name:<9} {width} x {height} pixels")
    lines += ["", f"left out: {escape_name(str(dataset.left_out))}"] if str(dataset.left_out) else []
    for title, found in findings(report):
        lines += ["", title, found] if found else ["", title]
    lines += ["", *verdict(report)]
    return "\n".join(lines) + "\n"


def class_lines(report: Report) -> list[str]:
    """One row per class; only the largest classes if there are many."""
    rows = report.class_counts()
    shown = rows if len(rows) <= MOST_CLASSES else sorted(rows, key=lambda row: -row[1])[:MOST_CLASSES]
    width = max(len("class"), *(len(escape_name(name)) for name, _, _ in shown))
    lines = [f"{'class':<{width}}    train      val"]
    lines += [f"{escape_name(name):<{width}}  {train:>7,}  {val:>7,}" for name, train, val in shown]
    return lines + ([f"and {len(rows) - len(shown):,} smaller classes"] if len(shown) < len(rows) else [])


def tally(counts: Counter[str]) -> str:
    """280 L, 20 RGB"""
    return ", ".join(f"{number:,} {name}" for name, number in counts.most_common()) or "none"


def findings(report: Report) -> Iterable[tuple[str, str]]:
    """(title, list of files) for each kind of problem."""
    for code in sorted({error.code for error in report.bad}):
        errors = [error for error in report.bad if error.code == code]
        yield f"bad       {count(len(errors), 'image')}: {code}", listing(lines_of(errors))
    repeats = report.repeats
    for groups, where in (
        (repeats.across_parts, "in both training and validation, so validation accuracy will be too high"),
        (repeats.across_classes, "in several classes"),
        (repeats.harmless, "several times in one class"),
    ):
        if groups:
            yield f"repeated  {count(len(groups), 'picture')} {where}", listing(group_lines(groups))
    if report.tiny:
        yield f"tiny      {count(len(report.tiny), 'image')}", listing(report.tiny)
    if report.several_frames:
        files = count(len(report.several_frames), "image")
        yield (
            f"frames    {files} with several frames or pages, of which the first is used",
            listing(report.several_frames),
        )
    for warning in report.warnings:
        yield f"warning   {escape_name(warning)}", ""


def verdict(report: Report) -> list[str]:
    """Whether finetune would train on the folder with the same options."""
    if not report.stops:
        return ["tlkit finetune would train on this folder"]
    return ["tlkit finetune would stop:", *(f"  {escape_name(line)}" for line in (*report.stops, *report.hints))]


def as_json(report: Report) -> str:
    """JSON: all findings, unabridged."""
    dataset, repeats = report.dataset, report.repeats
    value = {
        "data": path_fields(dataset.root),
        "shape": dataset.shape,
        "classes": [{**label_fields(name), "train": train, "val": val} for name, train, val in report.class_counts()],
        "formats": dict(report.formats),
        "modes": dict(report.modes),
        "sizes": report.size_range(),
        "left_out": {
            "suffixes": dataset.left_out.suffixes,
            "folders": dataset.left_out.folders,
            "loose_images": dataset.left_out.loose,
        },
        "bad": list(map(error_fields, report.bad)),
        "in_train_and_val": as_paths(repeats.across_parts),
        "in_several_classes": as_paths(repeats.across_classes),
        "repeated": as_paths(repeats.harmless),
        "tiny": [path_fields(path) for path in report.tiny],
        "several_frames": [path_fields(path) for path in report.several_frames],
        "warnings": report.warnings,
        "stops": report.stops,
    }
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def as_paths(groups: list[list[Sample]]) -> list[list[dict[str, str]]]:
    """The paths of each group."""
    return [[path_fields(sample.path) for sample in group] for group in groups]


REPORTS: dict[str, Callable[[Report], str]] = {"text": as_text, "json": as_json}
