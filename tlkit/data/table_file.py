"""Read a table into columns: CSV, TSV, JSON lines or Parquet. Loads no torch; pyarrow only for Parquet."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import os
from array import array
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import BinaryIO, TextIO

from tlkit.errors import DataError, UnavailableError
from tlkit.files.inputs import open_input

LONGEST_CELL = 1 << 20
"""Characters in a cell after which a CSV file is refused: most likely a quote is not closed."""

BATCH = 1 << 16
"""Rows of a Parquet file that are converted together."""


@dataclass
class Table:
    """The columns of a table as text. names: all columns, in the order of the file. columns: the wanted ones.

    lines: the line of each row, counted from 1 with the header; of Parquet the row. problems: (line, text).
    """

    path: str
    unit: str = "line"
    names: list[str] = field(default_factory=list)
    columns: dict[str, list[str]] = field(default_factory=dict)
    lines: array[int] = field(default_factory=lambda: array("q"))
    problems: list[tuple[int, str]] = field(default_factory=list)
    sha256: str = ""


def read_table(path: str, wanted: Collection[str] | None = None) -> Table:
    """Read the wanted columns of a table, or all. Raises MissingInputError, DataError or UnavailableError."""
    table = Table(path)
    with open_input(path) as file:
        table.sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        file.seek(0)
        READERS[suffix_of(path)](table, file, wanted)
    return table


def table_digest(path: str) -> str:
    """The SHA-256 of a table. Raises MissingInputError or DataError."""
    with open_input(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def suffix_of(path: str) -> str:
    """The lower-case suffix of a file."""
    return os.path.splitext(path)[1].lower()


def read_csv(table: Table, file: BinaryIO, wanted: Collection[str] | None) -> None:
    """Fill a table from CSV or TSV with a header. Semicolons and tabs are recognized where the header has no commas."""
    csv.field_size_limit(LONGEST_CELL)
    line = 1
    with decoded(file) as text:
        try:
            header = text.readline()
            text.seek(0)
            delimiter = "\t" if suffix_of(table.path) in (".tsv", ".tab") else max(",;\t", key=header.count)
            reader = csv.reader(text, delimiter=delimiter, skipinitialspace=delimiter != "\t")
            table.names = [name.strip() for name in next(reader, [])]
            places = places_of(table, wanted)
            table.columns = {name: [] for name in places}
            appends = [(table.columns[name].append, place) for name, place in places.items()]
            width, line = len(table.names), reader.line_num + 1
            for row in reader:
                if len(row) == width or (len(row) > width and not any(row[width:])):
                    for append, place in appends:
                        append(row[place])
                    table.lines.append(line)
                elif row:
                    table.problems.append((line, f"has {len(row)} cells, the header has {width}"))
                line = reader.line_num + 1
        except csv.Error as error:
            problem = f"line {line} is not valid CSV ({error})"
            raise DataError(table.path, problem, "Is a quote not closed?") from error
        except UnicodeError as error:
            raise DataError(table.path, f"is not text ({error}); expected UTF-8") from error


def decoded(file: BinaryIO) -> TextIO:
    """A file as text: UTF-16 if it starts so, else UTF-8, where other bytes are kept as file names keep them."""
    head = file.read(2)
    file.seek(0)
    if head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return io.TextIOWrapper(file, "utf-16", newline="")
    return io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")


def places_of(table: Table, wanted: Collection[str] | None) -> dict[str, int]:
    """Wanted column -> its place. Raises DataError for two columns of the same name."""
    twice = sorted({name for name in table.names if table.names.count(name) > 1 and (wanted is None or name in wanted)})
    if twice:
        raise DataError(table.path, f"has several columns named {twice[0]!r}; expected different names")
    return {name: place for place, name in enumerate(table.names) if wanted is None or name in wanted}


def read_json_lines(table: Table, file: BinaryIO, wanted: Collection[str] | None) -> None:
    """Fill a table from JSON lines: one object per line. A value that a row lacks is empty."""
    names: dict[str, None] = {}
    columns = table.columns
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            table.problems.append((number, "is not valid JSON"))
            continue
        if not isinstance(row, dict):
            table.problems.append((number, "is not a JSON object"))
            continue
        rows = len(table.lines)
        table.lines.append(number)
        names.update(dict.fromkeys(row))
        for name in row:
            if wanted is None or name in wanted:
                columns.setdefault(name, [""] * rows).append(text_of(row[name]))
        for column in columns.values():
            if len(column) == rows:
                column.append("")
    table.names = [*names]


def text_of(value: object) -> str:
    """A JSON or Parquet value as the text that a CSV file would have."""
    if isinstance(value, str):
        return value
    if value is None or value != value:  # NaN, as pandas writes a missing value
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        return os.fsdecode(value)
    return str(value) if not isinstance(value, (dict, list)) else json.dumps(value)


def read_parquet(table: Table, file: BinaryIO, wanted: Collection[str] | None) -> None:
    """Fill a table from Parquet. Raises UnavailableError without pyarrow."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        problem, hint = "needs pyarrow, which is not installed", "Install it with: pip install 'tlkit[parquet]'"
        raise UnavailableError(table.path, problem, hint) from error
    table.unit = "row"
    try:
        source = parquet.ParquetFile(file)
        table.names = list(source.schema_arrow.names)
        chosen = [*places_of(table, wanted)]
        table.columns = {name: [] for name in chosen}
        for batch in source.iter_batches(BATCH, columns=chosen):
            for name in chosen:
                table.columns[name] += map(text_of, batch.column(name).to_pylist())
        table.lines = array("q", range(1, source.metadata.num_rows + 1))
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(table.path, f"is not a valid Parquet file ({error})") from error


READERS: dict[str, Callable[[Table, BinaryIO, Collection[str] | None], None]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".tab": read_csv,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".parquet": read_parquet,
}
"""The reader of each suffix; options/data.py has the same list, which options do not import."""
