"""Read a folder of images as samples (path, label) and classes, with a deterministic split."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from typing import Any, NamedTuple, Self

from tlkit.data.image_file import ImageError, open_regular
from tlkit.data.listing import find_images, require_folder, subfolders
from tlkit.errors import DataError, UsageError

VALIDATION_NAMES = ("val", "valid", "validation")
PARTS = ("train", *VALIDATION_NAMES, "test")

DEFAULT_SHARE = 0.2
"""Fraction of each class used for validation."""

LAYOUT = "expected DATA/<class>/image, or DATA/train/<class>/image with DATA/val/<class>/image"


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
    were left out because they cannot be read.
    """

    root: str
    classes: tuple[str, ...]
    train: list[Sample]
    val: list[Sample]
    shape: str
    warnings: tuple[str, ...] = ()
    skipped: tuple[ImageError, ...] = ()

    def to_split(self) -> dict[str, Any]:
        """The content of split.json: classes, and the files of each class in train and val.

        Files under the root are named relative to it, others (from --val DIR) by their absolute path.
        """
        return {
            "classes": list(self.classes),
            "train": self._names_by_class(self.train),
            "val": self._names_by_class(self.val),
        }

    def _names_by_class(self, samples: list[Sample]) -> dict[str, list[str]]:
        """Names do not depend on how root and --val were spelled."""
        names: dict[str, list[str]] = {name: [] for name in self.classes}
        inside = os.path.join(os.path.abspath(self.root), "")
        for path, label in samples:
            names[self.classes[label]].append(os.path.abspath(path).removeprefix(inside))
        return names

    @classmethod
    def from_split(cls, split: Mapping[str, Any], root: str) -> Self:
        """The inverse of to_split, for images under root."""
        labels = {name: label for label, name in enumerate(split["classes"])}

        def samples(part: Mapping[str, list[str]]) -> list[Sample]:
            return [Sample(os.path.join(root, name), labels[c]) for c, names in part.items() for name in names]

        return cls(
            root, tuple(split["classes"]), samples(split["train"]), samples(split["val"]), "split stored in the run"
        )


def read_dataset(
    root: str,
    *,
    val: float | str | None = None,
    seed: int = 0,
    allow_one_class: bool = False,
    drop_empty: bool = False,
) -> Dataset:
    """Find the images of a folder in either layout, and split them into train and validation.

    val: fraction of each class for validation, or a folder of class folders; None for the folder's own validation
    part, or else DEFAULT_SHARE. drop_empty: ignore class folders without images. Raises MissingInputError for a
    missing folder, DataError if it cannot be trained on, UsageError for a fraction if it is already split.
    """
    require_folder(root)
    own = validation_folder(root)
    others = [name for name in subfolders(root) if name not in PARTS]
    train_folder = os.path.join(root, "train")
    has_parts = os.path.isdir(train_folder) and (own is not None or not others)
    source = train_folder if has_parts else root
    beside = f"ignored folders beside train: {shortened(others)}"
    warnings: tuple[str, ...] = (beside,) if has_parts and others else ()
    val_folder = val if isinstance(val, str) else own if has_parts else None
    if isinstance(val, float) and val_folder is not None:
        raise UsageError(
            f"--val {val:g}", f"cannot be combined with {val_folder}, which contains the validation images"
        )
    if isinstance(val, str):
        require_folder(val)
    classes, samples, dropped = read_classes(source, allow_one_class, drop_empty)
    warnings += (f"ignored folders without images: {shortened(dropped)}",) if dropped else ()
    if val_folder is None:
        share = DEFAULT_SHARE if val is None else float(val)
        return divide(root, source, classes, samples, share, seed, warnings)
    val_samples = read_labelled(val_folder, classes, exactly=True, drop_empty=drop_empty)
    shape = f"train from {source}, validation from {val_folder}"
    return Dataset(root, classes, samples, val_samples, shape, warnings)


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
    )


def folds_of(dataset: Dataset, count: int, seed: int) -> list[Dataset]:
    """Stratified k-fold split of all images: every image is in validation once."""
    samples = dataset.train + dataset.val
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


def split_rank(seed: int, class_name: str, name: str) -> bytes:
    """Sort key of an image; the images with the smallest keys are used for validation."""
    return hashlib.sha256(os.fsencode(f"{seed}\0{class_name}\0{name}")).digest()


def read_classes(
    folder: str, allow_one_class: bool, drop_empty: bool
) -> tuple[tuple[str, ...], list[Sample], tuple[str, ...]]:
    """Classes, samples and ignored class folders. Raises DataError unless there are two classes with images."""
    images = images_by_class(folder)
    empty = tuple(name for name, paths in images.items() if not paths)
    dropped = empty if drop_empty else ()
    classes = tuple(name for name in images if name not in set(dropped))
    if len(classes) < (1 if allow_one_class else 2):
        hint = "To train anyway, add --allow-one-class." if classes else ""
        raise DataError(folder, describe_no_classes(folder, classes), hint)
    if empty and not drop_empty:
        problem = f"no images in class {shortened(empty)}; {LAYOUT}"
        raise DataError(folder, problem, "Add images, delete the folder, or add --drop-empty to ignore it.")
    return classes, [Sample(path, label) for label, name in enumerate(classes) for path in images[name]], dropped


def images_by_class(folder: str) -> dict[str, list[str]]:
    """Class folder name -> paths of its images."""
    return {name: list(find_images(os.path.join(folder, name), root=folder)) for name in subfolders(folder)}


def shortened(names: Sequence[str], most: int = 5) -> str:
    """The first names and the number of the others."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def describe_no_classes(folder: str, classes: tuple[str, ...]) -> str:
    """Error text for a folder without two class folders."""
    loose = next(iter(find_images(folder, deep=False)), None)
    if not classes:
        found = (
            f"its images (such as {os.path.basename(loose)!r}) are not in class folders"
            if loose
            else "contains no images"
        )
    else:
        found = f"contains only one class folder, {classes[0]!r}; a classifier needs at least two"
    return f"{found}; {LAYOUT}"


def read_labelled(
    folder: str, classes: Sequence[str], *, exactly: bool = False, drop_empty: bool = False
) -> list[Sample]:
    """The samples of a folder of class folders, for known classes.

    exactly: require an image of every known class. drop_empty: ignore folders without images. Raises DataError for an
    unknown class.
    """
    require_folder(folder)
    images = {name: paths for name, paths in images_by_class(folder).items() if paths or not drop_empty}
    labels = {name: label for label, name in enumerate(classes)}
    strange = [name for name in images if name not in labels]
    missing = [name for name in classes if name not in images] if exactly else []
    if strange or missing or not images:
        differences = [f"these folders are not classes of the model: {shortened(strange)}"] if strange else []
        differences += [f"missing class folders: {shortened(missing)}"] if missing else []
        expected = f"it knows: {shortened(classes)}"
        raise DataError(folder, f"{'; '.join(differences) or 'contains no class folders'}; {expected}")
    empty = [name for name, paths in images.items() if not paths]
    if exactly and empty:
        raise DataError(folder, f"no images in class {shortened(empty)}; {expected_layout(classes)}")
    samples = [Sample(path, labels[name]) for name, paths in images.items() for path in paths]
    if not samples:
        raise DataError(folder, f"contains no images; {expected_layout(classes)}")
    return samples


def expected_layout(classes: Sequence[str]) -> str:
    """The expected layout in words."""
    return f"expected class folders, such as {classes[0]}/image.jpg"


def find_evaluation_folder(root: str) -> str:
    """The folder to evaluate: test, else validation, else the folder itself."""
    test = os.path.join(root, "test")
    return test if os.path.isdir(test) else validation_folder(root) or root


def validation_folder(root: str) -> str | None:
    """The validation folder, if there is one."""
    return next((f for name in VALIDATION_NAMES if os.path.isdir(f := os.path.join(root, name))), None)
