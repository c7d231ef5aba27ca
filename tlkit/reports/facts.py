"""The data of a report as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tlkit.training.evaluation import Evaluation
from tlkit.training.history import EpochRow


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
    """The evaluation of one epoch's predictions on the validation images, and the worst mistakes.

    train_images [C]: training images of each class.
    """

    evaluation: Evaluation
    train_images: Sequence[int]
    mistakes: Sequence[Mistake]


@dataclass(frozen=True)
class ReportData:
    """Everything that the report shows about a run.

    folds: of a cross-validated run, where each training image is a validation image too; else 1.
    folder, data_folder: quoted for the shell. command: trains such a model. measured: None until the run has
    finished. data, model: one-line descriptions. warnings: about the data. skipped: (path, reason) of images left out.
    given, options: by flag, as typed and as resolved. notes: about missing parts of the report.
    """

    name: str
    folder: str
    data_folder: str
    command: str
    state: str
    time: str
    metric: str
    classes: int
    train_images: int
    val_images: int
    folds: int
    history: Sequence[EpochRow]
    best: EpochRow | None
    measured: Measured | None
    data: str
    model: str
    warnings: Sequence[str]
    skipped: Sequence[tuple[str, str]]
    given: Mapping[str, str]
    options: Mapping[str, str]
    versions: Mapping[str, str]
    notes: Sequence[str] = ()
