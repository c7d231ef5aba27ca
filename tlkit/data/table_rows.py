"""The rows of a table of paths and labels: checked, with their files. All problems are in one report."""

from __future__ import annotations

import difflib
import math
import os
import shlex
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tlkit.data.class_names import shortened
from tlkit.data.listing import SUFFIXES, require_folder
from tlkit.data.parts import parse
from tlkit.data.table_file import Table, read_table
from tlkit.errors import DataError, escape_name
from tlkit.options.data import COLUMNS, TableOptions

LISTED = 10
"""Problems of one kind that the report lists; the others are counted."""

LIKELY = {
    "path": ("filename", "file_name", "file", "image", "image_path", "filepath", "image_id", "id", "img", "name"),
    "label": ("class", "category", "target", "labels", "class_name", "species", "breed", "y"),
}
"""Other names of the two columns that are needed, for a hint."""


@dataclass
class Entries:
    """The rows of a table that can be used. parts: train, val or test; empty if the table has no such column.

    names: paths relative to root. groups, weights: empty if the table has no such column.
    """

    root: str
    sha256: str
    names: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    lines: array[int] = field(default_factory=lambda: array("q"))

    def __post_init__(self) -> None:
        self.inside = os.path.join(self.root, "")  # os.path.join for each path would take seconds

    def path(self, place: int) -> str:
        """The path of an image."""
        name = self.names[place]
        return name if name[0] == "/" else self.inside + name

    def of_part(self, part: str) -> list[int]:
        """The places of the rows of a part."""
        return [place for place, one in enumerate(self.parts) if one == part]


class Problems:
    """The problems of the rows of a table, by kind."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.found: dict[str, list[tuple[int, str]]] = {}
        for line, text in table.problems:
            self.add("rows that cannot be read", line, text)

    def add(self, kind: str, line: int, text: str) -> None:
        self.found.setdefault(kind, []).append((line, text))

    def check(self, hint: str = "") -> None:
        """Raises DataError with one report if there are problems."""
        if not self.found:
            return
        report: list[str] = []
        for kind, rows in self.found.items():
            report.append(f"{kind}: {len(rows):,}")
            report += [f"  {self.table.unit} {line}: {escape_name(text)}" for line, text in sorted(rows)[:LISTED]]
            report += [f"  and {len(rows) - LISTED:,} more"] if len(rows) > LISTED else []
        bad = len({line for rows in self.found.values() for line, _ in rows})
        rows_in_all = len(self.table.lines) + len(self.table.problems)
        problem = f"{bad:,} of {rows_in_all:,} rows cannot be used; expected an existing file and one label in each row"
        raise DataError(self.table.path, problem, "\n".join([*report, *([hint] if hint else [])]))


def read_entries(path: str, options: TableOptions) -> Entries:
    """The checked rows of a table. Raises MissingInputError, or DataError with one report of all problems."""
    root, given = options.image_root(path), options.column_names()
    require_folder(root)
    name_of = {meaning: given.get(meaning, meaning) for meaning in COLUMNS}
    table = read_table(path, set(name_of.values()))
    require_columns(table, [name_of[m] for m in COLUMNS if m in given or m in ("path", "label")], name_of)
    columns = {meaning: table.columns[name] for meaning, name in name_of.items() if name in table.columns}
    problems, resolver = Problems(table), Resolver(root)
    entries = Entries(root, table.sha256, lines=table.lines)
    labels: dict[str, str] = {}  # each label once in memory
    seen: dict[str, int] = {}
    for place, (line, name, label) in enumerate(zip(table.lines, columns["path"], columns["label"], strict=True)):
        found = resolver(name) if name else name
        label = labels.setdefault(label, label.strip())
        if not name:
            problems.add("empty paths", line, "has no path")
        elif not found:
            problems.add("missing files", line, resolver.problem or f"no such file: {name}")
        elif (first := seen.setdefault(found, place)) != place:
            other = entries.labels[first]
            also = "again" if other == label else f"again, as {label!r} instead of {other!r}"
            problems.add("duplicate rows", line, f"{name} of {table.unit} {table.lines[first]} {also}")
        if not label:
            problems.add("empty labels", line, f"{name} has no label")
        entries.names.append(found or name)
        entries.labels.append(label)
    del seen
    entries.parts = [*parts_of(columns["split"], table, problems)] if "split" in columns else []
    entries.groups = columns.get("group", [])
    entries.weights = [*weights_of(columns["weight"], table, problems)] if "weight" in columns else []
    problems.check(resolver.hint(entries.names) if "missing files" in problems.found else "")
    if not entries.names:
        raise DataError(path, "contains no rows; expected a path and a label in each row")
    return entries


def require_columns(table: Table, needed: Sequence[str], name_of: Mapping[str, str]) -> None:
    """Raises DataError if columns are missing, with the --columns that was probably meant."""
    missing = [name for name in needed if name not in table.names]
    if not missing:
        return
    if not table.names:
        raise DataError(table.path, "is empty; expected the columns path and label")
    pairs = {m: name for m, name in name_of.items() if name in table.names and name != m}
    for meaning, names in LIKELY.items():
        if name_of.get(meaning) in missing:
            lower = {name.lower(): name for name in reversed(table.names)}
            likely = [lower[n] for n in (meaning, *names) if n in lower and lower[n] not in pairs.values()]
            likely += difflib.get_close_matches(name_of[meaning], table.names, n=1)
            pairs |= {meaning: likely[0]} if likely else {}
    if any(name.lower().endswith(SUFFIXES) for name in table.names):
        problem = f"has no line with the names of its columns; it begins with {shortened(table.names, 3)}"
        raise DataError(table.path, problem, "Add a first line such as: path,label")
    likely_columns = ",".join(f"{meaning}={name}" for meaning, name in pairs.items())
    hint = f"Name them: --columns {shlex.quote(likely_columns or 'path=COLUMN,label=COLUMN')}"
    found = f"its columns are {shortened(table.names, 10)}"
    raise DataError(table.path, f"has no column {shortened(missing)}; {found}", hint)


class Resolver:
    """Finds the files of a table: as named, or with the suffix of an image where ids stand for names.

    problem: why the last name is not a file, if there is more to say. Folders are listed once.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.problem = ""
        self.files: dict[str, frozenset[str]] = {}
        self.by_stem: dict[str, dict[str, list[str]]] = {}

    def __call__(self, name: str) -> str:
        """The name of an existing file relative to the root; empty if there is none."""
        self.problem = ""
        if "//" in name or name[0] == "." or "/." in name or name[-1] == "/":
            name = os.path.normpath(name)
        folder, _, file = name.rpartition("/")
        if file in self.listed(folder if folder or name[0] != "/" else "/"):
            return name
        if "\\" in name and (other := self(name.replace("\\", "/"))):
            return other
        candidates = self.stems(folder).get(file, [])
        if len(candidates) == 1:
            return f"{folder}/{candidates[0]}" if folder else candidates[0]
        self.problem = f"{name} is the name of several files: {', '.join(candidates)}" if candidates else ""
        return ""

    def listed(self, folder: str) -> frozenset[str]:
        """The names in a folder below the root; none if it cannot be listed."""
        if folder not in self.files:
            try:
                self.files[folder] = frozenset(os.listdir(os.path.join(self.root, folder) or "."))
            except (OSError, ValueError):
                self.files[folder] = frozenset()
        return self.files[folder]

    def stems(self, folder: str) -> dict[str, list[str]]:
        """File name without suffix -> the image files of that name."""
        if folder not in self.by_stem:
            found = self.by_stem[folder] = {}
            for file in sorted(self.listed(folder), key=os.fsencode):
                stem, suffix = os.path.splitext(file)
                if suffix.lower() in SUFFIXES:
                    found.setdefault(stem, []).append(file)
        return self.by_stem[folder]

    def hint(self, names: Sequence[str]) -> str:
        """The --root that was probably meant, if a folder beside the table has the first missing file."""
        name = next((name for name in names if name and not self(name)), "")
        for folder in sorted(self.listed("")):
            inner = Resolver(os.path.join(self.root, folder))
            if name and os.path.isdir(inner.root) and inner(name):
                return f"The paths fit another folder: add --root {shlex.quote(inner.root)}"
        return ""


def parts_of(values: Sequence[str], table: Table, problems: Problems) -> Iterator[str]:
    """The part of each row: train, val or test, by any name that a folder may have."""
    known: dict[str, str] = {}
    for line, value in zip(table.lines, values, strict=True):
        if value not in known:
            found = parse(value.strip())
            known[value] = found.part if found is not None and not found.rest else ""
        if not known[value]:
            problems.add("unknown parts", line, f"split is {value!r}; expected train, val or test")
        yield known[value]


def weights_of(values: Sequence[str], table: Table, problems: Problems) -> Iterator[float]:
    """The weight of each row."""
    for line, value in zip(table.lines, values, strict=True):
        try:
            weight = float(value)
        except ValueError:
            weight = -1.0
        if not (0 <= weight < math.inf):
            problems.add("invalid weights", line, f"weight is {value!r}; expected a number of at least 0")
        yield weight
