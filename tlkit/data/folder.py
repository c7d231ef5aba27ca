"""Samples (path, label), and data sets of them in two parts, training and validation."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Any, NamedTuple, Self

from tlkit.data.image_file import ImageError, open_regular
from tlkit.data.listing import LeftOut

UNEVEN = 5
"""Warn if the largest class has more than this many times the images of the smallest."""

BALANCE = "Try --class-weights balanced and --metric macro_f1, or add images of the small classes"
"""Advice where classes are imbalanced."""


class Sample(NamedTuple):
    """An image and the index of its class. path: its name in split.json and in messages."""

    path: str
    label: int

    def open(self) -> BufferedReader:
        """Open the image; the caller closes it. Other sources override this. Raises ImageError."""
        return open_regular(self.path)


@dataclass(frozen=True)
class Dataset:
    """Labelled images, split into train and val. classes: folder names in byte order.

    shape: text about the layout and the split. warnings: problems that are no errors. skipped: images that
    were left out because they cannot be read. left_out: counts of files that are no images of a class. digests: content
    digests that split.json holds, by the name of an image there.
    folds: the fold of each image by path, if the data set is cross-validated: then train and val are both all images.
    groups: path -> group of images that stay on one side of a split. weights: path -> factor in the training loss.
    table: SHA-256 of the table that was read, if any.
    """

    root: str
    classes: tuple[str, ...]
    train: list[Sample]
    val: list[Sample]
    shape: str
    warnings: tuple[str, ...] = ()
    skipped: tuple[ImageError, ...] = ()
    left_out: LeftOut = field(default_factory=LeftOut)
    digests: Mapping[str, str] = field(default_factory=dict)
    folds: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    table: str = ""

    @property
    def images(self) -> list[Sample]:
        """Every image once."""
        return self.train if self.folds else self.train + self.val

    @property
    def fold_count(self) -> int:
        """The number of folds; 1 for one split."""
        return max(self.folds.values(), default=0) + 1

    def to_split(self) -> dict[str, Any]:
        """The content of split.json: classes, the files of each class in train and val, and weights if there are any.

        Files under the root are named relative to it, others (from --val DIR) by their absolute path.
        """
        split = {
            "classes": list(self.classes),
            "train": self._names_by_class(self.train),
            "val": self._names_by_class(self.val),
            **({"folds": self._folds_by_class()} if self.folds else {}),
        }
        weights = (self.weights.get(sample.path, 1.0) for sample in self.train)
        named = dict(zip(self.names_of(self.train), weights, strict=True)) if self.weights else {}
        return {**split, "weights": named} if named else split

    def _folds_by_class(self) -> dict[str, list[int]]:
        """The fold of each image, in the order of its names."""
        folds: dict[str, list[int]] = {name: [] for name in self.classes}
        for path, label in self.train:
            folds[self.classes[label]].append(self.folds[path])
        return folds

    def _names_by_class(self, samples: list[Sample]) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {name: [] for name in self.classes}
        for sample, name in zip(samples, self.names_of(samples), strict=True):
            names[self.classes[sample.label]].append(name)
        return names

    def names_of(self, samples: Iterable[Sample]) -> list[str]:
        """The names of images in split.json."""
        inside = os.path.join(os.path.abspath(self.root), "")
        return [os.path.abspath(sample.path).removeprefix(inside) for sample in samples]

    @classmethod
    def from_split(cls, split: Mapping[str, Any], root: str) -> Self:
        """The inverse of to_split, for images under root."""
        labels = {name: label for label, name in enumerate(split["classes"])}

        def samples(part: Mapping[str, list[str]]) -> list[Sample]:
            return [Sample(os.path.join(root, name), labels[c]) for c, names in part.items() for name in names]

        train, val, shape = samples(split["train"]), samples(split["val"]), "split stored in the run"
        numbers = [number for name in split["train"] for number in split.get("folds", {}).get(name, ())]
        folds = {sample.path: number for sample, number in zip(train, numbers, strict=bool(numbers))}
        weights = {os.path.join(root, name): weight for name, weight in split.get("weights", {}).items()}
        own = {"digests": split.get("digests", {}), "folds": folds, "weights": weights}
        return cls(root, tuple(split["classes"]), train, val, shape, **own)


def class_counts(dataset: Dataset) -> tuple[list[int], list[int]]:
    """The number of training and of validation images of each class."""
    train, val = (Counter(sample.label for sample in part) for part in (dataset.train, dataset.val))
    labels = range(len(dataset.classes))
    return [train[label] for label in labels], [val[label] for label in labels]


def majority(train: Sequence[int], val: Sequence[int]) -> tuple[int, float]:
    """The class with the most training images, and the accuracy of always predicting it. train, val: of each class."""
    most = max(range(len(train)), key=train.__getitem__)
    return most, int(val[most]) / max(1, int(sum(val)))


def imbalance(dataset: Dataset) -> tuple[str, ...]:
    """A warning if the largest class has over UNEVEN times the training images of the smallest."""
    train, val = class_counts(dataset)
    (most, baseline), least = majority(train, val), train.index(min(train))
    if train[most] <= UNEVEN * train[least]:
        return ()
    name = dataset.classes[most]
    return (
        f"class {name!r} has {train[most]:,} training images, class {dataset.classes[least]!r} only "
        f"{train[least]:,}; always predicting {name!r} has an accuracy of {baseline:.4f} on the validation images. "
        f"{BALANCE}",
    )


def baseline_warning(
    classes: Sequence[str], train: Sequence[int], val: Sequence[int], accuracy: float
) -> tuple[str, ...]:
    """A warning if a model is no better than always predicting the largest class. train, val: images of each class."""
    most, baseline = majority(train, val)
    if len(classes) < 2 or accuracy > baseline:
        return ()
    advice = BALANCE if max(train) > 2 * min(train) else "Try more --epochs, --unfreeze all, or another --backbone"
    return (
        f"accuracy {accuracy:.4f} is no better than always predicting {classes[most]!r} ({baseline:.4f}). {advice}",
    )
