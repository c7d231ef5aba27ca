"""What a report is about, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Bin:
    """Answers whose probability lies between low and high: how many, how sure on average, and which share is right."""

    low: float
    high: float
    samples: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class ClassFigures:
    """A class, measured on the validation images. train: its training images."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    train: int


@dataclass(frozen=True)
class Mistake:
    """An image that was taken for another class. thumbnail: a JPEG file; None where the image is not at hand."""

    path: str
    label: str
    predicted: str
    probability: float
    thumbnail: bytes | None


@dataclass(frozen=True)
class Measured:
    """The best epoch's answers on the validation images, in figures."""

    samples: int
    calibration_error: float
    classes: Sequence[ClassFigures]
    confusion: Sequence[Sequence[int]]
    bins: Sequence[Bin]
    mistakes: Sequence[Mistake]
    mistaken: int


@dataclass(frozen=True)
class ReportData:
    """A run as its folder tells it.

    folder, data_folder: as they can be typed in a shell.
    history: a row for each epoch; best: the row of the best. measured: None where the run has not come so far.
    data, model: lines about them. warnings: about the data. skipped: images left out, with why. given, options: as
    typed and as resolved, by flag.
    notes: what this report lacks, and why.
    """

    name: str
    folder: str
    data_folder: str
    state: str
    time: str
    metric: str
    classes: int
    train_images: int
    val_images: int
    history: Sequence[Mapping[str, Any]]
    best: Mapping[str, Any] | None
    measured: Measured | None
    data: str
    model: str
    warnings: Sequence[str]
    skipped: Sequence[tuple[str, str]]
    given: Mapping[str, str]
    options: Mapping[str, str]
    versions: Mapping[str, str]
    notes: Sequence[str] = field(default_factory=tuple)
