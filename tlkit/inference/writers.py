"""A prediction, and its writers: tsv, csv, jsonl. A record is whole lines of bytes; file names are kept as they are."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import Any, Protocol

from tlkit.files.json_file import label_fields, path_fields

RECORD_VERSION = 1


to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


to_ascii_json = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True)
class Prediction:
    """What became of one input.

    index: its place in the input. top: (label, probability), best first; empty for a failure.
    error: (code, message) of a failure, else None. frames: of an animation, of which the first was labelled.
    degraded: not all of the image could be read.
    """

    index: int
    path: str
    top: tuple[tuple[str, float], ...] = ()
    error: tuple[str, str] | None = None
    frames: int = 1
    degraded: bool = False


class Writer(Protocol):
    """A format. ranked: several labels for each image, so rows carry their rank."""

    def header(self, ranked: bool) -> bytes: ...

    def record(self, prediction: Prediction, ranked: bool) -> bytes: ...


class TsvWriter:
    r"""path, label, probability, and with several labels the rank. No header.

    Backslash, tab, newline and carriage return in a name are written as \\ \t \n \r, so a record is one line
    and every name can be told.
    """

    ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})

    def header(self, ranked: bool) -> bytes:
        return b""

    def record(self, prediction: Prediction, ranked: bool) -> bytes:
        rows = ["\t".join(cell.translate(self.ESCAPES) for cell in cells) for cells in table_rows(prediction, ranked)]
        return "".join(row + "\n" for row in rows).encode("utf-8", "surrogateescape")


class CsvWriter:
    """The columns of tsv with a header, quoted as RFC 4180 says (lines end with a newline alone)."""

    def header(self, ranked: bool) -> bytes:
        return self._lines([["path", "label", "probability"] + ["rank"] * ranked])

    def record(self, prediction: Prediction, ranked: bool) -> bytes:
        return self._lines(table_rows(prediction, ranked))

    def _lines(self, rows: list[list[str]]) -> bytes:
        text = io.StringIO()
        # The csv module quotes what its own line end needs; a carriage return would end a line for other readers.
        has_return = any("\r" in cell for row in rows for cell in row)
        csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL).writerows(
            rows
        )
        return text.getvalue().encode("utf-8", "surrogateescape")


class JsonlWriter:
    """One JSON object for each input, failures included, as docs/predictions.schema.json describes it.

    A name that is not UTF-8 is path_bytes in base64, a class likewise label_bytes. A line with characters
    that a terminal may act on is all ASCII.
    """

    def header(self, ranked: bool) -> bytes:
        return b""

    def record(self, prediction: Prediction, ranked: bool) -> bytes:
        record: dict[str, Any] = {"v": RECORD_VERSION, "i": prediction.index, **path_fields(prediction.path)}
        if prediction.error:
            code, message = prediction.error
            message = message.encode("utf-8", "replace").decode()
            record |= {"status": "error", "error": {"code": code, "message": message}}
        else:
            top = [{**label_fields(label), "probability": probability} for label, probability in prediction.top]
            record |= {"status": "ok", **top[0], "top": top}
        record |= {"frames": prediction.frames} if prediction.frames > 1 else {}
        record |= {"degraded": True} if prediction.degraded else {}
        line = to_json(record)
        return (line if line.isprintable() else to_ascii_json(record)).encode() + b"\n"


WRITERS: dict[str, Writer] = {"tsv": TsvWriter(), "csv": CsvWriter(), "jsonl": JsonlWriter()}


def table_rows(prediction: Prediction, ranked: bool) -> list[list[str]]:
    """The rows of one input: none for a failure, else one for each label."""
    return [
        [prediction.path, label, f"{probability:.6f}"] + [str(rank)] * ranked
        for rank, (label, probability) in enumerate(prediction.top, start=1)
    ]
