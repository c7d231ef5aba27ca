"""The options that commands share about images: which are read, and with what of a folder training puts up."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tlkit.errors import UsageError
from tlkit.options.declare import argument, option

MORE_FORMATS = ("AVIF", "JPEG2000")
"""What --formats may add to the formats that are read anyway; as in data/formats.py, which options do not import."""


BAD_SHARE, BAD_IMAGES = 0.01, 10
"""How many bad images --skip-bad puts up with: this share, or so many of a small folder."""


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How images are read."""

    workers: int | None = option(
        None,
        "Processes that decode images, and threads that feed them. Default: one for each core. "
        "0: this process decodes, so that a file that crashes or hangs a decoder ends it.",
        minimum=0,
    )
    max_pixels: int = option(64_000_000, "Largest image that is read, width times height.", minimum=1, metavar="N")


@dataclass(frozen=True, kw_only=True)
class DataOptions(ImageOptions):
    """A folder to train on: what finetune makes of it, and what check says that finetune will."""

    data: str = argument("Folder of images: DATA/<class>/..., or DATA/train/<class>/... with DATA/val/<class>/...")
    val: str | None = option(
        None,
        "Share of each class kept for validation, or a folder of class folders. Default: DATA/val, or else 0.2.",
        metavar="FRACTION|DIR",
    )
    seed: int = option(
        0, "Decides the split, the order, the augmentation and the new head.", minimum=0, maximum=2**63 - 1
    )
    skip_bad: bool = option(False, "Go on without images that cannot be read; ends with exit status 3.")
    max_bad: float | None = option(
        None,
        "Share of the images that --skip-bad leaves out at most. Default: 0.01, or 10 images where that is more.",
        minimum=0,
        maximum=1,
        metavar="SHARE",
    )
    strict: bool = option(
        False, "Stop where the same picture is in training and validation, or in two classes, instead of warning."
    )
    allow_one_class: bool = option(False, "Train on a folder of a single class.")
    drop_empty: bool = option(False, "Leave out class folders that hold no image, instead of stopping.")
    formats: str | None = option(
        None,
        "Formats to read beside JPEG, PNG, WebP, BMP, GIF and TIFF: AVIF, JPEG2000. The model remembers them.",
        metavar="NAMES",
    )
    float_range: str | None = option(
        None,
        "Read 32-bit TIFF: the value that is black and the one that is white, as in 0,1. The model remembers them.",
        metavar="BLACK,WHITE",
    )

    def validation(self) -> float | str | None:
        """The share kept for validation, or the folder that holds the validation images; None if not given.

        Raises UsageError for a number that is no share.
        """
        if self.val is None:
            return None
        try:
            fraction = float(self.val)
        except ValueError:
            return self.val
        if not 0 < fraction < 1:
            raise UsageError("--val", f"{self.val} is not between 0 and 1; give a share such as 0.2, or a folder")
        return fraction

    def more_formats(self) -> tuple[str, ...]:
        """--formats, by their names. Raises UsageError."""
        names = tuple(name.strip().upper() for name in self.formats.split(",")) if self.formats else ()
        for name in names:
            if name not in MORE_FORMATS:
                raise UsageError("--formats", f"{name!r} is not known; expected {', '.join(MORE_FORMATS)}")
        return names

    def black_and_white(self) -> tuple[float, float] | None:
        """--float-range as two numbers. Raises UsageError."""
        if self.float_range is None:
            return None
        try:
            black, white = map(float, self.float_range.split(","))
            if math.isfinite(black) and math.isfinite(white) and black != white:
                return black, white
        except ValueError:
            pass
        raise UsageError("--float-range", f"{self.float_range!r} is no range; expected two numbers, as in 0,1")

    def most_bad(self, images: int) -> int:
        """How many of so many images may be left out."""
        if self.max_bad is not None:
            return int(self.max_bad * images)
        return max(int(BAD_SHARE * images), BAD_IMAGES)

    def check_data_options(self) -> None:
        """Raises UsageError for values that make no sense."""
        if self.max_bad is not None and not self.skip_bad:
            raise UsageError("--max-bad", "needs --skip-bad")
        self.validation()
        self.more_formats()
        self.black_and_white()
