"""A table of paths and labels as a data set, or as the images to evaluate."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

from tlkit.data.class_folders import Rules, read_labelled
from tlkit.data.class_names import matched, name_warnings, shortened
from tlkit.data.folder import Dataset, Sample
from tlkit.data.parts import parse
from tlkit.data.splitting import Split, grouped, refuse_straddling
from tlkit.data.table_rows import LISTED, Entries, read_entries
from tlkit.errors import DataError, MissingInputError, UsageError
from tlkit.options.data import TableOptions, is_table


def read_table_dataset(
    path: str, options: TableOptions, rules: Rules, val: float | str | None, split: Split
) -> Dataset:
    """A table as a data set, divided by its split column, or as a folder with the same classes would be.

    Raises MissingInputError, UsageError, or DataError if it cannot be trained on.
    """
    entries = read_entries(path, options)
    train = entries.of_part("train") if entries.parts else [*range(len(entries.names))]
    own = entries.of_part("val")
    if own and val is not None:
        raise UsageError(f"--val {val}", f"cannot be combined with {path}, whose split column names validation images")
    if entries.groups and rules.group_by is not None:
        raise UsageError("--group-by", f"cannot be combined with the group column of {path}")
    dataset = undivided(path, entries, train, own, rules)
    if isinstance(val, str):
        dataset = with_validation(dataset, *named_validation(val, options, dataset.classes, rules), val)
    elif own:
        dataset = with_validation(dataset, *known_samples(path, entries, own, dataset.classes), "its split column")
    if rules.group_by is not None:
        dataset = grouped(dataset, rules.group_by)
    if dataset.val:
        dataset = refuse_straddling(dataset)
    else:
        source = os.path.join(entries.root, common_part(entries, train))
        dataset = split(dataset, source)
    return dataset


def undivided(path: str, entries: Entries, train: list[int], val: list[int], rules: Rules) -> Dataset:
    """The training images as a data set, with groups and weights of all rows. Raises DataError for too few classes."""
    classes = tuple(sorted({entries.labels[place] for place in train}, key=os.fsencode))
    if len(classes) < (1 if rules.allow_one_class else 2):
        problem = f"has only one label, {classes[0]!r}" if classes else "has no rows for training"
        hint = "To train anyway, add --allow-one-class." if classes else ""
        raise DataError(path, f"{problem}; a classifier needs at least two", hint)
    if entries.weights and not any(entries.weights[place] for place in train):
        raise DataError(path, "all weights are 0; expected a weight above 0 in some rows")
    both = [*train, *val]
    return Dataset(
        entries.root,
        classes,
        samples_of(entries, train, {name: name for name in classes}, classes),
        [],
        "",
        tuple(name_warnings(classes)),
        groups={entries.path(n): entries.groups[n] or f"\0{entries.names[n]}" for n in both if entries.groups},
        weights={entries.path(n): entries.weights[n] for n in both if entries.weights},
        table=entries.sha256,
    )


def with_validation(dataset: Dataset, samples: list[Sample], notes: list[str], source: str) -> Dataset:
    """The data set with validation images. notes: about labels that were matched. source: where they are from."""
    validated = {sample.label for sample in samples}
    lacking = [name for label, name in enumerate(dataset.classes) if label not in validated]
    notes = notes + ([f"no validation images of {shortened(lacking)}"] if lacking else [])
    shape = f"validation from {source}"
    return dataclasses.replace(dataset, val=samples, warnings=(*dataset.warnings, *notes), shape=shape)


def named_validation(
    val: str, options: TableOptions, classes: Sequence[str], rules: Rules
) -> tuple[list[Sample], list[str]]:
    """The samples of --val, a table or a folder of class folders, and notes about names that were matched."""
    if not is_table(val):
        return read_labelled(val, classes, rules)
    entries = read_entries(val, options)
    return known_samples(val, entries, range(len(entries.names)), classes)


def evaluation_samples(
    path: str, options: TableOptions, classes: Sequence[str], split: str
) -> tuple[list[Sample], str, list[str]]:
    """The samples of a part of a table for known classes, the name of the part, and notes about labels.

    split: train, val, test, all, or auto for the first of test, val and all that has rows. Raises MissingInputError.
    """
    entries = read_entries(path, options)
    available = [part for part in ("test", "val", "train") if part in set(entries.parts)]
    part = split if split != "auto" else next((part for part in available if part != "train"), "all")
    if part != "all" and part not in available:
        found = f"its split column has {', '.join(available)}" if available else "it has no split column"
        raise MissingInputError(path, f"has no rows for --split {part}: {found}")
    places = range(len(entries.names)) if part == "all" else entries.of_part(part)
    samples, notes = known_samples(path, entries, places, classes)
    return samples, part, notes


def samples_of(
    entries: Entries, places: Sequence[int], meaning: Mapping[str, str], classes: Sequence[str]
) -> list[Sample]:
    """The samples of some rows, in the order in which a folder of class folders lists them."""
    labels = {name: label for label, name in enumerate(classes)}
    label_of = {label: labels[name] for label, name in meaning.items()}
    keys = {place: os.fsencode(entries.names[place]).replace(b"/", b"\0") for place in places}
    ordered = sorted(places, key=keys.__getitem__)
    samples = [Sample(entries.path(place), label_of[entries.labels[place]]) for place in ordered]
    samples.sort(key=lambda sample: sample.label)
    return samples


def known_samples(
    path: str, entries: Entries, places: Sequence[int], classes: Sequence[str]
) -> tuple[list[Sample], list[str]]:
    """The samples of some rows for known classes, and notes about labels that were matched.

    Raises DataError with the lines of unknown labels.
    """
    names = list(dict.fromkeys(entries.labels[place] for place in places))
    meaning = matched(names, classes)
    strange = [place for place in places if entries.labels[place] not in meaning]
    if strange:
        rows = [f"  line {entries.lines[place]}: {entries.labels[place]!r}" for place in strange[:LISTED]]
        rows += [f"  and {len(strange) - LISTED:,} more"] if len(strange) > LISTED else []
        problem = f"{len(strange):,} rows have labels that are not classes; the classes are: {shortened(classes)}"
        raise DataError(path, problem, "\n".join(rows))
    other = [f"{name!r} is {meaning[name]!r}" for name in names if meaning[name] != name]
    notes = [f"labels of {path} matched to classes: {shortened(other)}"] if other else []
    return samples_of(entries, places, meaning, classes), notes


def common_part(entries: Entries, places: Sequence[int]) -> str:
    """The folder train/ that all paths start with, which does not count in the split; empty if there is none."""
    first = entries.names[places[0]].partition("/")[0]
    found = parse(first)
    if found is None or found.part != "train":
        return ""
    inside = f"{first}/"
    return first if all(entries.names[place].startswith(inside) for place in places) else ""
