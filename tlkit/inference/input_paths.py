"""The inputs of predict in order: given paths, images in folders, and lists on standard input."""

from __future__ import annotations

import codecs
import os
import select
import shlex
import stat
from collections.abc import Iterator

from tlkit.data.listing import LeftOut, find_images
from tlkit.data.table_file import read_table
from tlkit.data.table_rows import Problems, Resolver, require_columns
from tlkit.errors import DataError, MissingInputError
from tlkit.options.data import TableOptions

LIST = "-"
"""The PATH that stands for a list on standard input."""

STANDARD_INPUT = 0
CHUNK = 1 << 16

MOST_NAMED = 10
"""Paths that an error names; further ones are counted."""

LONGEST_NAME = 1 << 20
"""Bytes after which a name without terminator is invalid: no system opens longer paths."""


def read_inputs(arguments: list[str], null: bool, crlf: bool, left_out: LeftOut | None = None) -> Iterator[str]:
    """Yield given paths; for a folder its images, for LIST the paths on standard input.

    null, crlf: how that list is written. left_out: counts other files in folders. Raises MissingInputError or
    DataError if the list cannot be read.
    """
    for argument in arguments:
        if argument == LIST:
            names = split_names(STANDARD_INPUT, b"\0" if null else b"\n")
            yield from map(os.fsdecode, strip_crlf_and_bom(names) if crlf else names)
        elif os.path.isdir(argument):
            yield from find_images(argument, left_out=left_out)
        else:
            yield argument


class RowPath(str):
    """A path from a table. columns: the other columns of its row."""

    columns: dict[str, str]


def read_table_paths(path: str, options: TableOptions) -> tuple[list[str], list[RowPath]]:
    """The other columns of a table of paths, and the path of each row. Files may be missing; ids may lack a suffix.

    Raises MissingInputError or DataError.
    """
    table, names = read_table(path), options.column_names()
    path_column = names.get("path", "path")
    require_columns(table, [path_column], {"path": path_column})
    Problems(table).check()
    root = options.image_root(path)
    resolve, others = Resolver(root), [name for name in table.names if name != path_column]
    inputs = []
    for place, name in enumerate(table.columns.get(path_column, ())):
        row = RowPath(os.path.join(root, resolve(name) or name) if name else "")
        row.columns = {other: table.columns[other][place] for other in others}
        inputs.append(row)
    return others, inputs


def columns_of(path: str) -> dict[str, str]:
    """The other columns of the table that a path is from; none for other paths."""
    return path.columns if isinstance(path, RowPath) else {}


def waits_for_input(arguments: list[str]) -> bool:
    """Whether another program may still be writing the paths: then each is predicted as soon as it arrives, and batches
    depend on time. Otherwise batches are full, so the same command on the same files gives the same digits."""
    return LIST in arguments and not stat.S_ISREG(os.fstat(STANDARD_INPUT).st_mode)


def no_inputs(arguments: list[str]) -> MissingInputError:
    """The error for a command that has nothing to predict."""
    named = [shlex.quote(argument) for argument in arguments[:MOST_NAMED] if argument != LIST]
    more = [f"and {len(arguments) - MOST_NAMED:,} more"] * (len(arguments) > MOST_NAMED)
    where = ", ".join([*named, *["the list on standard input"] * (LIST in arguments), *more])
    return MissingInputError("inputs", f"0 inputs: there is no image in {where}", "To accept this, add --allow-empty.")


def split_names(descriptor: int, end: bytes) -> Iterator[bytes]:
    """Yield names terminated by `end` (optional for the last one) as soon as they are complete."""
    rest = b""
    while chunk := read_some(descriptor):
        *names, rest = (rest + chunk).split(end)
        yield from names
        if len(rest) > LONGEST_NAME:
            ending, other = ("NUL", "without -0") if end == b"\0" else ("newline", "with -0")
            raise DataError(
                "standard input",
                f"is no list of paths: {LONGEST_NAME:,} bytes follow each other without a {ending}",
                f"Is it a list to be read {other}?",
            )
    if rest:
        yield rest


def read_some(descriptor: int) -> bytes:
    """Read available bytes, waiting for the first; empty at the end of input. Raises MissingInputError."""
    while True:
        try:
            return os.read(descriptor, CHUNK)
        except BlockingIOError:  # the descriptor was inherited in non-blocking mode
            select.select([descriptor], [], [])
        except OSError as error:
            raise MissingInputError("standard input", f"cannot be read: {error.strerror}") from error


def strip_crlf_and_bom(names: Iterator[bytes]) -> Iterator[bytes]:
    """Strip a carriage return from the end of each name, and a byte order mark from the start of the first."""
    for number, name in enumerate(names):
        yield (name if number else name.removeprefix(codecs.BOM_UTF8)).removesuffix(b"\r")
