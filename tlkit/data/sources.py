"""The sources of data sets in one table. A source reads a data set, and its samples know how to open themselves.

To add a source (an archive): a class with the methods of DatasetSource, a subclass of Sample whose
`open` returns the image's bytes as an open file, and a row of DATASET_SOURCES.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

from tlkit.data.class_folders import Rules, read_dataset
from tlkit.data.folder import Dataset, imbalance
from tlkit.data.listing import require_folder
from tlkit.data.splitting import Split, by_share, cross_validated
from tlkit.data.table import read_table_dataset
from tlkit.errors import UsageError
from tlkit.files.inputs import open_input
from tlkit.options import FinetuneOptions
from tlkit.options.data import DataOptions, is_table


class DatasetSource(Protocol):
    """A kind of data set that DATA can name."""

    def accepts(self, data: str) -> bool:
        """Whether this source reads DATA. The first source of the table that accepts it is taken."""

    def require(self, data: str) -> None:
        """Raises MissingInputError unless DATA exists and can be opened."""

    def read(self, options: DataOptions, split: Split) -> Dataset:
        """Find the images; divide them into training and validation by split, unless validation images are named.

        Raises DataError, MissingInputError or UsageError.
        """


class Tables:
    """A CSV, TSV, JSON lines or Parquet file with paths and labels."""

    def accepts(self, data: str) -> bool:
        return is_table(data)

    def require(self, data: str) -> None:
        with open_input(data):
            pass

    def read(self, options: DataOptions, split: Split) -> Dataset:
        return read_table_dataset(options.data, options, rules_of(options), options.validation(), split)


class ClassFolders:
    """A folder with a folder of images for each class."""

    def accepts(self, data: str) -> bool:
        return True

    def require(self, data: str) -> None:
        require_folder(data)

    def read(self, options: DataOptions, split: Split) -> Dataset:
        return read_dataset(options.data, val=options.validation(), rules=rules_of(options), split=split)


def rules_of(options: DataOptions) -> Rules:
    """How the images are read, as the options say."""
    flags = options.allow_one_class, options.drop_empty, options.nested, options.merge_subfolders
    return Rules(*flags, options.group_pattern())


DATASET_SOURCES: dict[str, DatasetSource] = {"tables": Tables(), "folders": ClassFolders()}
"""In the order in which they are asked; the last one accepts everything."""


def source_of(data: str) -> DatasetSource:
    """The source that reads DATA."""
    return next(source for source in DATASET_SOURCES.values() if source.accepts(data))


def require_data(data: str) -> None:
    """Raises MissingInputError unless DATA exists and can be opened."""
    source_of(data).require(data)


def find_training_set(options: FinetuneOptions) -> Dataset:
    """The data set of a run; cross-validated if the options allow it and no validation images are named.

    Raises as find_dataset does.
    """

    def split(dataset: Dataset, source: str) -> Dataset:
        folds = options.fold_count(len(dataset.images))
        if folds > 1:
            return cross_validated(dataset, folds, options.seed)
        return by_share(options.validation(), options.seed)(dataset, source)

    dataset = source_of(options.data).read(options, split)
    if (options.folds or 1) > 1 and not dataset.folds:
        named = f"cannot be combined with the validation images of {dataset.root}"
        raise UsageError(f"--folds {options.folds}", named)
    return with_imbalance(dataset)


def find_dataset(options: DataOptions) -> Dataset:
    """The data set that the options name. Raises DataError, MissingInputError or UsageError."""
    split = by_share(options.validation(), options.seed)
    return with_imbalance(source_of(options.data).read(options, split))


def with_imbalance(dataset: Dataset) -> Dataset:
    """The data set with a warning if its classes are imbalanced."""
    return dataclasses.replace(dataset, warnings=(*dataset.warnings, *imbalance(dataset)))
