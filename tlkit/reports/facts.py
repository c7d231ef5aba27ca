"""The data of a report as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Bin:
    """Predictions with a probability between low and high: their number, mean confidence and accuracy."""

    low: float
    high: float
    samples: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class ClassFigures:
    """Figures of one class on the validation images. train: number of its training images."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    train: int


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction. thumbnail: bytes of a JPEG; None if the image cannot be read."""

    path: str
    label: str
    predicted: str
    probability: float
    thumbnail: bytes | None


@dataclass(frozen=True)
class Measured:
    """Figures of the best epoch's predictions on the validation images."""

    samples: int
    calibration_error: float
    classes: Sequence[ClassFigures]
    confusion: Sequence[Sequence[int]]
    bins: Sequence[Bin]
    mistakes: Sequence[Mistake]
    mistaken: int


@dataclass(frozen=True)
class ReportData:
    """Everything that the report shows about a run.

    folder, data_folder: quoted for the shell. history: one row per epoch; best: the row of the best epoch.
    measured: None until the run has finished. data, model: one-line descriptions. warnings: about the data.
    skipped: (path, reason) of images left out. given, options: by flag, as typed and as resolved.
    notes: about missing parts of the report.
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
