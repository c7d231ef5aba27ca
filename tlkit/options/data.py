"""Shared options about images: how they are read, and which of a folder are used."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass

from tlkit.errors import UsageError
from tlkit.options.declare import argument, option

MORE_FORMATS = ("AVIF", "JPEG2000")
"""The formats that --formats can add; data/formats.py has the same list, which options do not import."""

TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".parquet")
"""Suffixes of tables that DATA can name; data/table_file.py has the same list, which options do not import."""

COLUMNS = ("path", "label", "split", "group", "weight")
"""The columns of a table that tlkit reads."""

BAD_SHARE, BAD_IMAGES = 0.01, 10
"""The most images that --skip-bad skips: this share of them or this number, whichever is more."""


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How images are read."""

    workers: int | None = option(
        None, "Processes that decode images; 0: decode in tlkit itself", group="Speed and memory",
        shown="one per core", minimum=0,
    )  # fmt: skip
    max_pixels: int = option(64_000_000, "Largest image to read, pixels in all", group="Data checks", minimum=1)


def is_table(path: str) -> bool:
    """Whether a path names a table, by its suffix; a folder may have any name."""
    return path.lower().endswith(TABLE_SUFFIXES) and not os.path.isdir(path)


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How a table of paths and labels is read."""

    root: str | None = option(
        None, "Folder that the paths of a table are relative to", group="Data checks", shown="the table's",
        metavar="DIR",
    )  # fmt: skip
    columns: str | None = option(
        None, "Columns of a table, e.g. path=filename,label=class", group="Data checks", shown="same names",
        metavar="NAME=NAME,...",
    )  # fmt: skip

    def column_names(self) -> dict[str, str]:
        """One of COLUMNS -> the column's name in the table, as given by --columns. Raises UsageError."""
        names: dict[str, str] = {}
        for pair in self.columns.split(",") if self.columns else ():
            meaning, equals, name = (part.strip() for part in pair.partition("="))
            if meaning not in COLUMNS or not equals or not name or meaning in names:
                problem = f"{pair!r} is not a valid value; expected pairs such as path=filename,label=class"
                raise UsageError("--columns", f"{problem}, with {', '.join(COLUMNS)} before the =")
            names[meaning] = name
        return names

    def image_root(self, data: str) -> str:
        """The folder that the paths of a table, and the names in split.json, are relative to."""
        return self.root or os.path.dirname(data) or "." if is_table(data) else data

    def check_table_options(self, *data: str) -> None:
        """Raises UsageError for invalid values, or if no table is among the inputs."""
        self.column_names()
        for flag, value in (("--root", self.root), ("--columns", self.columns)):
            if value is not None and not any(map(is_table, data)):
                raise UsageError(flag, f"needs a table; expected a file ending in {', '.join(TABLE_SUFFIXES)}")


@dataclass(frozen=True, kw_only=True)
class DataOptions(ImageOptions, TableOptions):
    """A folder or table to train on, as finetune, tune and check read it."""

    data: str = argument("Folder (DATA/CLASS/... or DATA/train/CLASS/...), or table of paths and labels")
    val: str | None = option(
        None, "Validation images: share of each class, or folder", group="Data checks",
        shown="DATA/val, else 0.2", metavar="FLOAT|DIR",
    )  # fmt: skip
    seed: int = option(
        0, "Seed of the split, shuffling, augmentation and new head", group="Training", minimum=0, maximum=2**63 - 1
    )
    skip_bad: bool = option(
        False, "Skip images that cannot be read; exit with status 3 at the end", group="Data checks"
    )
    max_bad: float | None = option(
        None, "Largest share of images to skip", group="Data checks", shown="0.01, or 10 images if more",
        minimum=0, maximum=1,
    )  # fmt: skip
    strict: bool = option(
        False, "Stop on duplicates across train and validation, or across classes", group="Data checks"
    )
    allow_one_class: bool = option(False, "Accept a folder with a single class", group="Data checks")
    drop_empty: bool = option(False, "Ignore class folders without images instead of stopping", group="Data checks")
    nested: bool = option(False, "Make each folder with images a class, such as animal/cat", group="Data checks")
    merge_subfolders: bool = option(
        False, "Count subfolders to their class, even if they look like classes", group="Data checks"
    )
    group_by: str | None = option(
        None, "Keep images whose names match alike on one side of the split", group="Data checks", shown="off",
        metavar="NAME",
    )  # fmt: skip
    formats: str | None = option(
        None, "More formats to read: AVIF, JPEG2000 or both", group="Data checks", shown="none",
        metavar="NAME,NAME",
    )  # fmt: skip
    float_range: str | None = option(
        None, "Read 32-bit TIFF; its black and white values, e.g. 0,1", group="Data checks", shown="off",
        metavar="FLOAT,FLOAT",
    )  # fmt: skip

    integer_range: str | None = option(
        None, "Values of black and white in 16-bit images, e.g. 0,4095", group="Data checks", shown="0,65535",
        metavar="N,N",
    )  # fmt: skip

    def validation(self) -> float | str | None:
        """The validation share, or the folder of validation images; None if not given.

        Raises UsageError for a number outside 0 to 1.
        """
        if self.val is None:
            return None
        try:
            fraction = float(self.val)
        except ValueError:
            return self.val
        if not 0 < fraction < 1:
            raise UsageError("--val", f"{self.val} is not between 0 and 1; expected a share such as 0.2, or a folder")
        return fraction

    def data_name(self) -> str:
        """The name of the data in names of runs: of the folder, or of the table without suffix."""
        name = os.path.basename(os.path.abspath(self.data))
        return os.path.splitext(name)[0] if is_table(self.data) else name

    def group_pattern(self) -> re.Pattern[str] | None:
        """--group-by as a compiled pattern. Raises UsageError."""
        try:
            return re.compile(self.group_by) if self.group_by is not None else None
        except re.error as error:
            raise UsageError("--group-by", f"{self.group_by!r} is not a regular expression ({error})") from error

    def more_formats(self) -> tuple[str, ...]:
        """The names in --formats. Raises UsageError."""
        names = tuple(name.strip().upper() for name in self.formats.split(",")) if self.formats else ()
        for name in names:
            if name not in MORE_FORMATS:
                raise UsageError("--formats", f"{name!r} is not a valid value; expected {', '.join(MORE_FORMATS)}")
        return names

    def ranges(self) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
        """--float-range and --integer-range, each as two numbers. Raises UsageError."""
        return (
            black_and_white("--float-range", self.float_range, "0,1"),
            black_and_white("--integer-range", self.integer_range, "0,4095"),
        )

    def most_bad(self, images: int) -> int:
        """How many images --skip-bad may skip, of this many."""
        if self.max_bad is not None:
            return int(self.max_bad * images)
        return max(int(BAD_SHARE * images), BAD_IMAGES)

    def check_data_options(self) -> None:
        """Raises UsageError for invalid values."""
        if self.max_bad is not None and not self.skip_bad:
            raise UsageError("--max-bad", "needs --skip-bad")
        if self.nested and self.merge_subfolders:
            raise UsageError("--nested", "cannot be combined with --merge-subfolders, which does the opposite")
        if is_table(self.data) and (self.nested or self.merge_subfolders):
            flag = "--nested" if self.nested else "--merge-subfolders"
            raise UsageError(flag, f"applies to folders, but {self.data} is a table")
        self.check_table_options(self.data, self.val or "")
        self.group_pattern()
        self.validation()
        self.more_formats()
        self.ranges()


def black_and_white(flag: str, value: str | None, example: str) -> tuple[float, float] | None:
    """The two numbers of a range, None if it is not given. Raises UsageError."""
    if value is None:
        return None
    try:
        black, white = map(float, value.split(","))
        if math.isfinite(black) and math.isfinite(white) and black != white:
            return black, white
    except ValueError:
        pass
    raise UsageError(flag, f"{value!r} is not a range; expected two different numbers, e.g. {example}")
