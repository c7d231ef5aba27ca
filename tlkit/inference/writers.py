"""Prediction formats: tsv, csv, jsonl; and the output that records go to.

A record is whole lines of bytes; file names are kept byte for byte.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from tlkit.errors import OutputError
from tlkit.files.atomic import OutputFile, replaced_when_whole
from tlkit.files.json_file import label_fields, path_fields
from tlkit.inference.input_paths import columns_of
from tlkit.inference.prediction import Prediction
from tlkit.options import STANDARD_OUTPUT
from tlkit.terminal import write_stdout

RECORD_VERSION = 1
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""The first characters of cells that spreadsheets take for formulas."""

to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
to_ascii_json = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class Writer(Protocol):
    """A format. ranked: several labels per image, with a rank column. columns: other columns of a table of inputs."""

    def header(self, ranked: bool, columns: Sequence[str] = ()) -> bytes: ...

    def record(self, prediction: Prediction, ranked: bool) -> bytes: ...


class TsvWriter:
    r"""path, label, probability, and the rank if there are several labels. No header.

    Backslash, tab, newline and carriage return in a name are written as \\ \t \n \r, so a record is one line
    and every name is lossless.
    """

    ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})

    def header(self, ranked: bool, columns: Sequence[str] = ()) -> bytes:
        return b""

    def record(self, prediction: Prediction, ranked: bool) -> bytes:
        rows = ["\t".join(cell.translate(self.ESCAPES) for cell in cells) for cells in table_rows(prediction, ranked)]
        return "".join(row + "\n" for row in rows).encode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class CsvWriter:
    """The columns of tsv with a header, quoted as in RFC 4180 (but lines end with a newline only).

    safe: put an apostrophe before a path or label that a spreadsheet would take for a formula.
    """

    safe: bool = False

    def header(self, ranked: bool, columns: Sequence[str] = ()) -> bytes:
        own = ["path", "label", "probability"] + ["rank"] * ranked
        return self._lines([own + [f"table_{name}" if name in (*own, "rank") else name for name in columns]])

    def record(self, prediction: Prediction, ranked: bool) -> bytes:
        return self._lines(table_rows(prediction, ranked))

    def _lines(self, rows: list[list[str]]) -> bytes:
        if self.safe:
            rows = [["'" * cell.startswith(FORMULA) + cell for cell in row] for row in rows]
        text = io.StringIO()
        # The csv module quotes what its own line end needs; a carriage return would end a line for other readers.
        has_return = any("\r" in cell for row in rows for cell in row)
        csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL).writerows(
            rows
        )
        return text.getvalue().encode("utf-8", "surrogateescape")


class JsonlWriter:
    """One JSON object per input, including failures; see docs/predictions.schema.json.

    A name that is not UTF-8 is path_bytes in base64, a class likewise label_bytes. A line with characters
    that a terminal may act on is all ASCII.
    """

    def header(self, ranked: bool, columns: Sequence[str] = ()) -> bytes:
        return b""

    def record(self, prediction: Prediction, ranked: bool) -> bytes:
        record: dict[str, object] = {"v": RECORD_VERSION, "i": prediction.index, **path_fields(prediction.path)}
        if prediction.error:
            code, message = prediction.error
            record |= {"status": "error", "error": {"code": code, "message": as_utf8(message)}}
        else:
            top = [{**label_fields(label), "probability": probability} for label, probability in prediction.top]
            record |= {"status": "ok", **top[0], "top": top}
        columns = columns_of(prediction.path).items()
        record |= {"columns": {as_utf8(name): as_utf8(value) for name, value in columns}} if columns else {}
        record |= {"frames": prediction.frames} if prediction.frames > 1 else {}
        record |= {"degraded": True} if prediction.degraded else {}
        line = to_json(record)
        return (line if line.isprintable() else to_ascii_json(record)).encode() + b"\n"


WRITERS: dict[str, Writer] = {"tsv": TsvWriter(), "csv": CsvWriter(), "jsonl": JsonlWriter()}


def as_utf8(text: str) -> str:
    """Text with ? for bytes that are not UTF-8."""
    return text.encode("utf-8", "replace").decode()


def table_rows(prediction: Prediction, ranked: bool) -> list[list[str]]:
    """The rows of one input: none for a failure, else one per label, each with the columns of the table of inputs."""
    columns = columns_of(prediction.path).values()
    return [
        [prediction.path, label, f"{probability:.6f}", *[str(rank)] * ranked, *columns]
        for rank, (label, probability) in enumerate(prediction.top, start=1)
    ]


@contextmanager
def open_output(path: str | None) -> Iterator[Callable[[bytes], object]]:
    """A function that writes records: to stdout at once, or to a file that replaces the old one when all are written.

    Raises OutputError or StorageError.
    """
    if path in STANDARD_OUTPUT:
        yield write_stdout
        return
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):
        problem = "is a folder, pipe or device; --output replaces a file"
        raise OutputError(path or "--output", problem, "Use > to write to a pipe or device.")
    with replaced_when_whole(path) as aside, io.BufferedWriter(OutputFile(aside, path)) as file:
        yield file.write
