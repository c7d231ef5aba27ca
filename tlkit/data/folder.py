"""Samples (path, label), and data sets of them with a deterministic split into training and validation."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Any, NamedTuple, Self

from tlkit.data.image_file import ImageError, open_regular
from tlkit.data.listing import LeftOut
from tlkit.errors import DataError

DEFAULT_SHARE = 0.2
"""Fraction of each class used for validation."""

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
    divided: whether tlkit chose the validation images. folds: the fold of each image by path, if the data set is
    cross-validated: then train and val are both all images.
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
    divided: bool = False
    folds: Mapping[str, int] = field(default_factory=dict)

    @property
    def images(self) -> list[Sample]:
        """Every image once."""
        return self.train if self.folds else self.train + self.val

    @property
    def fold_count(self) -> int:
        """The number of folds; 1 for one split."""
        return max(self.folds.values(), default=0) + 1

    def to_split(self) -> dict[str, Any]:
        """The content of split.json: classes, and the files of each class in train and val.

        Files under the root are named relative to it, others (from --val DIR) by their absolute path.
        """
        return {
            "classes": list(self.classes),
            "train": self._names_by_class(self.train),
            "val": self._names_by_class(self.val),
            **({"folds": self._folds_by_class()} if self.folds else {}),
        }

    def _folds_by_class(self) -> dict[str, list[int]]:
        """The fold of each image, in the order of its names."""
        folds: dict[str, list[int]] = {name: [] for name in self.classes}
        for path, label in self.train:
            folds[self.classes[label]].append(self.folds[path])
        return folds

    def _names_by_class(self, samples: list[Sample]) -> dict[str, list[str]]:
        """Names do not depend on how root and --val were spelled."""
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
        digests = split.get("digests", {})
        return cls(root, tuple(split["classes"]), train, val, shape, digests=digests, folds=folds)


def divide(
    root: str,
    source: str,
    classes: tuple[str, ...],
    samples: list[Sample],
    fraction: float,
    seed: int,
    warnings: tuple[str, ...] = (),
) -> Dataset:
    """Use a fraction of each class for validation: the images with the smallest hash of (seed, class, name).

    The split is stable: adding or removing images moves at most a few others.
    """
    by_class: list[list[Sample]] = [[] for _ in classes]
    for sample in samples:
        by_class[sample.label].append(sample)
    val: set[str] = set()
    for name, members in zip(classes, by_class, strict=True):
        if len(members) == 1:
            warnings += (f"class {name!r} has only one image, so it cannot be validated; add images",)
            continue
        kept = min(max(1, round(len(members) * fraction)), len(members) - 1)
        ranked = sorted(members, key=lambda s: split_rank(seed, name, os.path.relpath(s.path, source)))
        val.update(sample.path for sample in ranked[:kept])
    if not val:
        raise DataError(root, "no class has two images; expected at least two in a class, to use one for validation")
    return Dataset(
        root,
        classes,
        [sample for sample in samples if sample.path not in val],
        [sample for sample in samples if sample.path in val],
        f"{fraction:.0%} of each class for validation, seed {seed}",
        warnings,
        divided=True,
    )


def folds_of(dataset: Dataset, count: int, seed: int) -> list[Dataset]:
    """Stratified k-fold split of all images: every image is in validation once."""
    samples = dataset.images
    dealt: list[list[Sample]] = [[] for _ in range(count)]
    for label, name in enumerate(dataset.classes):
        members = [sample for sample in samples if sample.label == label]
        ranked = sorted(members, key=lambda s: split_rank(seed, name, os.path.relpath(s.path, dataset.root)))
        for place, sample in enumerate(ranked):
            dealt[place % count].append(sample)
    return [
        dataclasses.replace(
            dataset,
            train=[sample for other in dealt if other is not fold for sample in other],
            val=fold,
            shape=f"fold {place} of {count} for validation",
        )
        for place, fold in enumerate(dealt, 1)
    ]


def cross_validated(dataset: Dataset, folds: int, seed: int) -> Dataset:
    """The data set for a run that trains on all images and validates each one by a head that has not seen it.

    Each class is dealt into the folds in the order of split_rank, each starting where the last class stopped, so that
    the folds have equal sizes. Adding images moves at most a few others.
    """
    images = sorted(dataset.images, key=lambda sample: (sample.label, sample.path))
    ranks = {s.path: split_rank(seed, dataset.classes[s.label], os.path.relpath(s.path, dataset.root)) for s in images}
    dealt = sorted(images, key=lambda sample: (sample.label, ranks[sample.path]))
    numbers = {sample.path: place % folds for place, sample in enumerate(dealt)}
    shape = f"cross-validated in {folds} folds, seed {seed}"
    return dataclasses.replace(dataset, train=images, val=images, shape=shape, folds=numbers)


def split_rank(seed: int, class_name: str, name: str) -> bytes:
    """Sort key of an image; the images with the smallest keys are used for validation."""
    return hashlib.sha256(os.fsencode(f"{seed}\0{class_name}\0{name}")).digest()


def class_counts(dataset: Dataset) -> tuple[list[int], list[int]]:
    """The number of training and of validation images of each class."""
    train, val = (Counter(sample.label for sample in part) for part in (dataset.train, dataset.val))
    labels = range(len(dataset.classes))
    return [train[label] for label in labels], [val[label] for label in labels]


def imbalance(dataset: Dataset) -> tuple[str, ...]:
    """A warning if the largest class has over UNEVEN times the training images of the smallest."""
    train, val = class_counts(dataset)
    most, least = train.index(max(train)), train.index(min(train))
    if train[most] <= UNEVEN * train[least]:
        return ()
    name, baseline = dataset.classes[most], val[most] / max(1, sum(val))
    return (
        f"class {name!r} has {train[most]:,} training images, class {dataset.classes[least]!r} only "
        f"{train[least]:,}; always predicting {name!r} has an accuracy of {baseline:.4f} on the validation images. "
        f"{BALANCE}",
    )


def baseline_warning(
    classes: Sequence[str], train: Sequence[int], val: Sequence[int], accuracy: float
) -> tuple[str, ...]:
    """A warning if a model is no better than always predicting the largest class. train, val: images of each class."""
    most = train.index(max(train))
    baseline = val[most] / max(1, sum(val))
    if len(classes) < 2 or accuracy > baseline:
        return ()
    advice = BALANCE if max(train) > 2 * min(train) else "Try more --epochs, --unfreeze all, or another --backbone"
    return (
        f"accuracy {accuracy:.4f} is no better than always predicting {classes[most]!r} ({baseline:.4f}). {advice}",
    )
