"""Divide the images of a data set: a share for validation, or folds. A pure function of seed, classes and names."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from tlkit.data.class_names import shortened
from tlkit.data.folder import Dataset, Sample
from tlkit.errors import DataError

DEFAULT_SHARE = 0.2
"""Fraction of each class used for validation."""


ONE_IMAGE = "class {!r} has only one image, so it cannot be validated; add images"

Split = Callable[[Dataset, str], Dataset]
"""Divides a data set whose images are all in train; names are relative to the folder."""


def by_share(val: float | str | None, seed: int) -> Split:
    """The split that uses a fraction of each class for validation. val: the fraction; None for DEFAULT_SHARE."""
    fraction = val if isinstance(val, float) else DEFAULT_SHARE
    return lambda dataset, source: divide(dataset, fraction, seed, source)


def divide(dataset: Dataset, fraction: float, seed: int, source: str) -> Dataset:
    """Use a fraction of each class of the training images for validation; a group stays on one side.

    Without groups, the images with the smallest hash of (seed, class, name relative to source) are chosen. The split is
    stable: adding or removing images moves at most a few others. Raises DataError without any validation image.
    """
    if dataset.groups:
        val, warnings = whole_groups(dataset, fraction, seed)
    else:
        val, warnings = single_images(dataset, fraction, seed, source)
    if not val:
        problem = "no class has images of two groups" if dataset.groups else "no class has two images"
        raise DataError(dataset.root, f"{problem}; expected at least two in a class, to use one for validation")
    groups = "whole groups, about " if dataset.groups else ""
    return dataclasses.replace(
        dataset,
        train=[sample for sample in dataset.train if sample.path not in val],
        val=[sample for sample in dataset.train if sample.path in val],
        shape=f"{groups}{fraction:.0%} of each class for validation, seed {seed}",
        warnings=dataset.warnings + warnings,
    )


def single_images(dataset: Dataset, fraction: float, seed: int, source: str) -> tuple[set[str], tuple[str, ...]]:
    """Paths of the images for validation, and warnings about classes without any."""
    val: set[str] = set()
    warnings: tuple[str, ...] = ()
    for name, members in zip(dataset.classes, by_class(dataset.train, len(dataset.classes)), strict=True):
        if len(members) == 1:
            warnings += (ONE_IMAGE.format(name),)
            continue
        kept = kept_for_validation(len(members), fraction)
        val.update(sample.path for sample in ranked(members, seed, name, source)[:kept])
    return val, warnings


def kept_for_validation(count: int, fraction: float) -> int:
    """How many of the images of a class are used for validation: at least one on each side."""
    return min(max(1, round(count * fraction)), count - 1)


def by_class(samples: Sequence[Sample], classes: int) -> list[list[Sample]]:
    """The samples of each class."""
    found: list[list[Sample]] = [[] for _ in range(classes)]
    for sample in samples:
        found[sample.label].append(sample)
    return found


def ranked(samples: Sequence[Sample], seed: int, class_name: str, source: str) -> list[Sample]:
    """The samples of a class in the order in which they are chosen."""
    names = names_below([sample.path for sample in samples], source)
    keys = [split_rank(seed, class_name, name) for name in names]
    return [samples[place] for place in sorted(range(len(samples)), key=keys.__getitem__)]


def names_below(paths: Sequence[str], folder: str) -> list[str]:
    """Paths relative to a folder. os.path.relpath is slow, and only needed where the path does not start with it."""
    inside = os.path.join(folder, "")
    return [path[len(inside) :] if path.startswith(inside) else os.path.relpath(path, folder) for path in paths]


def split_rank(seed: int, class_name: str, name: str) -> bytes:
    """Sort key of an image; the images with the smallest keys are used for validation."""
    return hashlib.sha256(os.fsencode(f"{seed}\0{class_name}\0{name}")).digest()


# ---- groups


def grouped(dataset: Dataset, pattern: re.Pattern[str]) -> Dataset:
    """The data set with groups from file names: the first group of the pattern, or all that matches.

    An image that does not match is a group of its own. Raises DataError if none matches.
    """
    groups = {}
    unmatched = []
    samples = dataset.train + dataset.val
    for sample, name in zip(samples, names_below([s.path for s in samples], dataset.root), strict=True):
        found = pattern.search(name)
        key = next((part for part in (found.groups() or (found[0],)) if part is not None), "") if found else ""
        groups[sample.path] = f"\1{key}" if key else f"\0{name}"
        unmatched += [] if key else [name]
    if len(unmatched) == len(groups):
        raise DataError(f"--group-by {pattern.pattern}", f"matches no file name; a name looks like {unmatched[0]}")
    warning = f"--group-by does not match {len(unmatched):,} of {len(groups):,} images; each is a group of its own"
    return dataclasses.replace(dataset, groups=groups, warnings=dataset.warnings + ((warning,) if unmatched else ()))


def refuse_straddling(dataset: Dataset) -> Dataset:
    """The data set. Raises DataError if a group has images in both parts, as a given split may."""
    train = {dataset.groups[sample.path] for sample in dataset.train} if dataset.groups else set()
    both = sorted({group for sample in dataset.val if (group := dataset.groups.get(sample.path, "")) in train} - {""})
    if both:
        named = shortened([group.lstrip("\0\1") for group in both])
        problem = f"these groups are in both training and validation: {named}"
        raise DataError(dataset.root, problem, "Change the split, or omit the groups or the split.")
    return dataset


def labels_of_groups(samples: Sequence[Sample], groups: Mapping[str, str]) -> dict[str, list[int]]:
    """Group -> the labels of its images."""
    found: dict[str, list[int]] = {}
    for path, label in samples:
        found.setdefault(groups[path], []).append(label)
    return found


def whole_groups(dataset: Dataset, fraction: float, seed: int) -> tuple[set[str], tuple[str, ...]]:
    """Paths of the images for validation, and a warning about classes without any.

    Groups are chosen in the order of their hash, as long as they bring the number of images of each class nearer to
    its share. Each class keeps training images, and gets validation images if its groups allow it.
    """
    groups = labels_of_groups(dataset.train, dataset.groups)
    total = Counter(sample.label for sample in dataset.train)
    missing = {label: kept_for_validation(number, fraction) for label, number in total.items()}
    left = dict(total)  # training images of each class
    chosen: set[str] = set()

    def choose(group: str, counts: Counter[int]) -> None:
        chosen.add(group)
        for label, number in counts.items():
            missing[label] -= number
            left[label] -= number

    order = sorted(groups, key=lambda group: split_rank(seed, "", group))
    for group in order:
        counts = Counter(groups[group])
        gain = sum(abs(missing[label]) - abs(missing[label] - number) for label, number in counts.items())
        if gain > 0 and all(number < left[label] for label, number in counts.items()):
            choose(group, counts)
    for label in total:
        if left[label] == total[label]:  # all its groups are large: the smallest of them
            sizes = {group: Counter(groups[group]) for group in order if label in groups[group]}
            fitting = [group for group in sizes if all(n < left[one] for one, n in sizes[group].items())]
            if fitting:
                smallest = min(fitting, key=lambda group: sizes[group].total())
                choose(smallest, sizes[smallest])
    lacking = [dataset.classes[label] for label in sorted(total) if left[label] == total[label]]
    warning = f"these classes cannot be validated, as their images are in too few groups: {shortened(lacking)}"
    val = {sample.path for sample in dataset.train if dataset.groups[sample.path] in chosen}
    return val, (warning,) if lacking else ()


# ---- folds


def folds_of(dataset: Dataset, count: int, seed: int) -> list[Dataset]:
    """Stratified k-fold split of all images: every image is in validation once. Groups stay together."""
    fold_of = deal(dataset, count, seed)
    return [
        dataclasses.replace(
            dataset,
            train=[sample for sample in dataset.images if fold_of[sample.path] != fold],
            val=[sample for sample in dataset.images if fold_of[sample.path] == fold],
            shape=f"fold {fold + 1} of {count} for validation",
        )
        for fold in range(count)
    ]


def cross_validated(dataset: Dataset, folds: int, seed: int) -> Dataset:
    """The data set for a run that trains on all images and validates each one by a head that has not seen it."""
    images = sorted(dataset.images, key=lambda sample: (sample.label, sample.path))
    groups = ", groups in one fold each" if dataset.groups else ""
    shape = f"cross-validated in {folds} folds, seed {seed}{groups}"
    members = zip(dataset.classes, by_class(images, len(dataset.classes)), strict=True)
    single = tuple(ONE_IMAGE.format(name) for name, own in members if len(own) == 1)
    warnings, dealt = dataset.warnings + single, deal(dataset, folds, seed)
    return dataclasses.replace(dataset, train=images, val=images, shape=shape, warnings=warnings, folds=dealt)


def deal(dataset: Dataset, count: int, seed: int) -> dict[str, int]:
    """Path -> fold. Each class is dealt out in the order of split_rank, starting where the last one stopped, so that
    the folds have equal sizes. Groups stay in one fold."""
    if dataset.groups:
        fold_of = deal_groups(dataset.images, dataset.groups, count, seed)
        return {sample.path: fold_of[dataset.groups[sample.path]] for sample in dataset.images}
    members = by_class(dataset.images, len(dataset.classes))
    named = zip(dataset.classes, members, strict=True)
    dealt = [sample for name, own in named for sample in ranked(own, seed, name, dataset.root)]
    return {sample.path: place % count for place, sample in enumerate(dealt)}


def deal_groups(samples: Sequence[Sample], groups: Mapping[str, str], count: int, seed: int) -> dict[str, int]:
    """Group -> fold: large groups first, each to the fold that has the smallest share of its classes so far."""
    labels = labels_of_groups(samples, groups)
    total = Counter(sample.label for sample in samples)
    filled: list[Counter[int]] = [Counter() for _ in range(count)]
    fold_of: dict[str, int] = {}
    for group in sorted(labels, key=lambda group: (-len(labels[group]), split_rank(seed, "", group))):
        inside = Counter(labels[group])
        loads = [
            (sum(number * fold[label] / total[label] for label, number in inside.items()), fold.total())
            for fold in filled
        ]
        fold_of[group] = loads.index(min(loads))
        filled[fold_of[group]].update(inside)
    return fold_of
