"""Read a folder with a folder of images for each class, alone or in parts (train, validation, test)."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tlkit.data.class_names import NAMED, matched, most_like, name_warnings, shortened
from tlkit.data.folder import Dataset, Sample
from tlkit.data.listing import LeftOut, entries_of, find_images, holds_only_runs, require_folder, subfolders
from tlkit.data.parts import find_parts, innermost, recognize
from tlkit.data.splitting import Split, by_share, grouped, refuse_straddling
from tlkit.errors import DataError, UsageError
from tlkit.options.data import is_table

LAYOUT = "expected DATA/<class>/image, or DATA/train/<class>/image with DATA/val/<class>/image"


@dataclass(frozen=True)
class Rules:
    """How class folders are read.

    allow_one_class: accept a single class. drop_empty: ignore class folders without images. nested: each folder with
    images is a class of its own, animal/cat. merge: subfolders belong to their class, even if they look like classes.
    """

    allow_one_class: bool = False
    drop_empty: bool = False
    nested: bool = False
    merge: bool = False
    group_by: re.Pattern[str] | None = None


@dataclass(frozen=True)
class FolderImages:
    """The images of a folder by class. inner: class -> its subfolders with images. flat: classes with images of their
    own, outside of subfolders. left_out: the other files."""

    folder: str
    images: dict[str, list[str]]
    inner: dict[str, list[str]] = field(default_factory=dict)
    flat: frozenset[str] = frozenset()
    left_out: LeftOut = field(default_factory=LeftOut)

    def empty(self) -> tuple[str, ...]:
        """The classes without images."""
        return tuple(name for name, paths in self.images.items() if not paths)


def read_dataset(
    root: str,
    *,
    val: float | str | None = None,
    seed: int = 0,
    rules: Rules = Rules(),
    split: Split | None = None,
) -> Dataset:
    """Find the images of a folder in either layout, and split them into train and validation.

    val: fraction of each class for validation, or a folder of class folders; None for the folder's own validation
    part, or else DEFAULT_SHARE. split: divides images without validation images in another way. Raises
    MissingInputError for a missing folder, DataError if it cannot be trained on, UsageError for a fraction if it is
    already split.
    """
    require_folder(root)
    parts = find_parts(root)
    source = parts.train or root
    warnings: tuple[str, ...] = ()
    if parts.train is not None and parts.others:
        warnings += (f"ignored folders beside train: {shortened(parts.others)}",)
    val_folder = val if isinstance(val, str) else parts.val if parts.train is not None else None
    require_validation(val, val_folder)
    found = read_class_folders(source, rules.nested)
    if source != root:
        subfolders(root, found.left_out)
    classes = require_classes(found, rules)
    dropped = [name for name in found.empty() if name not in classes]
    warnings += (f"ignored folders without images: {shortened(dropped)}",) if dropped else ()
    warnings += tuple(() if rules.merge or rules.nested else nested_classes(found)) + tuple(name_warnings(classes))
    samples = [Sample(path, label) for label, name in enumerate(classes) for path in found.images[name]]
    dataset = Dataset(root, classes, samples, [], "", warnings, left_out=found.left_out)
    if val_folder is not None:
        val_samples, notes = read_labelled(innermost(val_folder), classes, rules, found.left_out, exactly=True)
        shape = f"train from {source}, validation from {val_folder}"
        dataset = dataclasses.replace(dataset, val=val_samples, shape=shape, warnings=(*warnings, *notes))
    if rules.group_by is not None:
        dataset = grouped(dataset, rules.group_by)
    if val_folder is not None:
        dataset = refuse_straddling(dataset)
    else:
        dataset = (split or by_share(val, seed))(dataset, source)
        if source != root:
            dataset = dataclasses.replace(dataset, shape=f"from {source}, {dataset.shape}")
    return dataset


def require_validation(val: float | str | None, folder: str | None) -> None:
    """Raises UsageError or MissingInputError if --val is no share and no folder. folder: of validation images."""
    if isinstance(val, float) and folder is not None:
        raise UsageError(f"--val {val:g}", f"cannot be combined with {folder}, which contains the validation images")
    if isinstance(val, str) and is_table(val):
        raise UsageError(f"--val {val}", "is a table, but DATA is a folder; expected a folder of class folders")
    if isinstance(val, str):
        require_folder(val)


def read_class_folders(folder: str, nested: bool = False) -> FolderImages:
    """Find the images of each class folder. nested: of each folder with images."""
    left_out = LeftOut()
    images: dict[str, list[str]] = {}
    inner: dict[str, list[str]] = {}
    flat = set()
    for name in subfolders(folder, left_out):
        own = os.path.join(folder, name)
        paths = list(find_images(own, root=folder, left_out=left_out))
        if not paths and holds_only_runs(own):
            continue
        start = len(os.path.join(own, ""))
        below = dict.fromkeys(path[start:].partition(os.sep)[0] for path in paths if os.sep in path[start:])
        inner |= {name: list(below)} if below else {}
        if any(os.sep not in path[start:] for path in paths):
            flat.add(name)
        for path in paths if nested else ():
            images.setdefault(os.path.relpath(os.path.dirname(path), folder), []).append(path)
        images |= {} if nested and paths else {name: paths}
    ordered = {name: images[name] for name in sorted(images, key=os.fsencode)}
    return FolderImages(folder, ordered, inner, frozenset(flat), left_out)


def require_classes(found: FolderImages, rules: Rules) -> tuple[str, ...]:
    """The class names. Raises DataError unless there are two classes with images that are no data sets themselves."""
    folder, empty = found.folder, found.empty()
    classes = tuple(name for name in found.images if not (rules.drop_empty and name in set(empty)))
    if not rules.merge:
        refuse_parts_in_classes(found)
    if len(classes) < (1 if rules.allow_one_class else 2):
        hints = [*table_hints(folder, classes), *([one_class_hint(found, classes[0])] if classes else [])]
        raise DataError(folder, describe_no_classes(folder, classes), "\n".join(hints))
    if not (rules.merge or rules.nested):
        refuse_same_subfolders(found)
    if empty and not rules.drop_empty:
        problem = f"no images in class {shortened(empty)}; {LAYOUT}"
        raise DataError(folder, problem, "Add images, delete the folder, or add --drop-empty to ignore it.")
    return classes


def table_hints(folder: str, classes: Sequence[str]) -> list[str]:
    """The command for a table beside the images, if there is one."""
    tables = [entry.name for entry in entries_of(folder) if is_table(entry.path)]
    root = f" --root {path_below(folder, classes[0])}" if classes else ""
    return [f"If {tables[0]} has the labels: tlkit finetune {path_below(folder, tables[0])}{root}"] if tables else []


def one_class_hint(found: FolderImages, name: str) -> str:
    """The commands that help with a folder of a single class folder."""
    anyway = "To train anyway, add --allow-one-class."
    if len(found.inner.get(name, ())) < 2 or name in found.flat:
        return anyway
    return f"If its subfolders are the classes: tlkit finetune {path_below(found.folder, name)}\n{anyway}"


def path_below(folder: str, name: str) -> str:
    """A path for the shell."""
    return shlex.quote(os.path.join(folder, name))


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


def refuse_parts_in_classes(found: FolderImages) -> None:
    """Raises DataError if a class folder is a data set in itself, with train and val folders."""
    parts: dict[str, list[str]] = {}
    for name, below in found.inner.items():
        chosen = recognize(below)
        whole = len(chosen) > 1 or ("train" in chosen and len(below) == 1)
        if whole and name not in found.flat:
            parts[name] = list(chosen.values())
    if not parts:
        return
    named = [f"{name}/{part}" for name, several in parts.items() for part in several]
    problem = f"these folders look like the parts of a data set, not like images of a class: {shortened(named)}"
    paths = [path for name in parts for path in found.images.get(name, ())]
    if len(parts) > 1 and all(os.path.relpath(path, found.folder).count(os.sep) == 2 for path in paths):
        rearranged = shlex.quote(os.path.normpath(found.folder) + "-parts")
        advice = (
            f'To link the images in that layout: for d in {path_below(found.folder, "")}*/*/; do p=$(basename "$d"); '
            f'c=$(basename "$(dirname "$d")"); mkdir -p {rearranged}/"$p"; '
            f'ln -s "$(realpath "$d")" {rearranged}/"$p/$c"; done\nThen: tlkit finetune {rearranged}'
        )
    else:
        advice = "\n".join(
            f"To train on {name!r}: tlkit finetune {path_below(found.folder, name)}" for name in [*parts][:3]
        )
    also = "If they are subfolders of a class, add --merge-subfolders."
    raise DataError(found.folder, f"{problem}; {LAYOUT}", f"{advice}\n{also}")


def refuse_same_subfolders(found: FolderImages) -> None:
    """Raises DataError if all class folders contain the same subfolders, which probably are the classes."""
    names = sorted(found.inner, key=lambda name: -len(found.images[name]))
    if len(names) < 2 or found.flat or len(names) < len(found.images) - len(found.empty()):
        return
    sets = [{name.casefold() for name in found.inner[one]} for one in names]
    shared, union = set.intersection(*sets), set.union(*sets)
    if len(shared) < 2 or 2 * len(shared) < len(union):
        return
    common = [name for name in found.inner[names[0]] if name.casefold() in shared]
    problem = f"all class folders ({shortened(sorted(names))}) contain the same subfolders ({shortened(common)})"
    val = f" --val {path_below(found.folder, names[1])}" if sets[0] == sets[1] else ""
    raise DataError(
        found.folder,
        f"{problem}, which are probably the classes; {LAYOUT}",
        f"To train on the classes {shortened(common)}: tlkit finetune {path_below(found.folder, names[0])}{val}\n"
        f"To make each subfolder a class, such as {names[0]}/{common[0]}, add --nested.\n"
        "To make the outer folders the classes, add --merge-subfolders.",
    )


def nested_classes(found: FolderImages) -> Iterator[str]:
    """A warning about class folders that contain nothing but several folders with images."""
    outer = [name for name, below in found.inner.items() if len(below) > 1 and name not in found.flat]
    if outer:
        examples = [f"{name}/{found.inner[name][0]}" for name in outer]
        yield (
            f"class folders contain subfolders with images: {shortened(examples)}. Their images belong to the class of "
            "the outer folder; to make each subfolder a class, add --nested (or silence this by --merge-subfolders)"
        )


def read_labelled(
    folder: str,
    classes: Sequence[str],
    rules: Rules = Rules(),
    left_out: LeftOut | None = None,
    *,
    exactly: bool = False,
) -> tuple[list[Sample], list[str]]:
    """The samples of a folder of class folders, for known classes; and notes about names that were matched.

    exactly: the classes are those of the training images, and each needs an image. Folder names that nearly equal a
    class are matched. left_out: counts the other files. Raises DataError for an unknown class.
    """
    require_folder(folder)
    found = read_class_folders(folder, rules.nested or any("/" in name for name in classes))
    if left_out is not None:
        left_out.update(found.left_out)
    images = {name: paths for name, paths in found.images.items() if paths or not rules.drop_empty}
    meaning = matched(list(images), classes)
    strange = [name for name in images if name not in meaning]
    missing = [name for name in classes if name not in meaning.values()] if exactly else []
    if strange or missing or not images:
        raise unknown_classes(folder, classes, strange, missing, exactly)
    empty = [name for name, paths in images.items() if not paths]
    if exactly and empty:
        raise DataError(folder, f"no images in class {shortened(empty)}; {expected_layout(classes)}")
    labels = {name: label for label, name in enumerate(classes)}
    samples = [Sample(path, labels[meaning[name]]) for name, paths in images.items() for path in paths]
    samples.sort(key=lambda sample: sample.label)  # as split.json lists them
    if not samples:
        raise DataError(folder, f"contains no images; {expected_layout(classes)}")
    other = [f"{name!r} is {meaning[name]!r}" for name in images if meaning[name] != name]
    more = f", and {len(other) - NAMED:,} more" if len(other) > NAMED else ""
    return samples, [f"folders of {folder} matched to classes: {', '.join(other[:NAMED])}{more}"] if other else []


def unknown_classes(
    folder: str, classes: Sequence[str], strange: Sequence[str], missing: Sequence[str], exactly: bool
) -> DataError:
    """The error for class folders that differ from the classes. exactly: those of the training images."""
    owner = "training images" if exactly else "model"
    differences = [f"these folders are not classes of the {owner}: {shortened(strange)}"] if strange else []
    differences += [f"missing class folders: {shortened(missing)}"] if missing else []
    free = [name for name in classes if name in missing or not exactly]
    likely = [(name, like) for name in strange if (like := most_like(name, free)) is not None]
    renames = [
        f"If {name!r} is {like!r}: mv {path_below(folder, name)} {path_below(folder, like)}"
        for name, like in likely[:NAMED]
    ]
    problem = f"{'; '.join(differences) or 'contains no class folders'}; the classes are: {shortened(classes)}"
    return DataError(folder, problem, "\n".join(renames))


def expected_layout(classes: Sequence[str]) -> str:
    """The expected layout in words."""
    return f"expected class folders, such as {classes[0]}/image.jpg"


def is_labelled(folder: str, classes: Sequence[str]) -> bool:
    """Whether a folder has class folders: one of a known class, or several with images."""
    names = subfolders(folder)
    if any("/" in name for name in classes) or matched(names, classes):
        return True
    return sum(next(find_images(os.path.join(folder, name)), None) is not None for name in names) > 1
