"""Read JSON and JSON lines; encode paths and labels as JSON fields. Loads no torch."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from typing import Any

from tlkit.errors import DataError
from tlkit.files.inputs import open_input

BLOCK = 1 << 20
LARGEST_JSON, LARGEST_LIST = 16 << 20, 1 << 30
"""Bytes of a file; of one that lists images: the predictions of five millions."""


def read_text(path: str, largest: int) -> str:
    """The text of a JSON file. Stops at a NUL byte, which no JSON has: a file with holes can be of any length.

    largest: bytes. Raises MissingInputError, DataError, or ValueError for text that is not UTF-8.
    """
    content = bytearray()
    with open_input(path) as file:
        while block := file.read(BLOCK):
            content += block
            if 0 in block or len(content) > largest:
                problem = "contains NUL bytes" if 0 in block else f"is larger than {largest:,} bytes"
                raise DataError(path, f"is not valid JSON: it {problem}")
    return content.decode()


def read_json(path: str, largest: int = LARGEST_JSON) -> Any:
    """A JSON document of at most `largest` bytes. Raises MissingInputError or DataError."""
    try:
        return json.loads(read_text(path, largest))
    except (ValueError, RecursionError) as error:
        raise DataError(path, f"is not valid JSON ({error})") from error


def read_whole_json(path: str, *keys: str, largest: int = LARGEST_JSON) -> dict[str, Any]:
    """A JSON object with these keys, of at most `largest` bytes. Raises MissingInputError or DataError."""
    value = read_json(path, largest)
    missing = [key for key in keys if key not in value] if isinstance(value, dict) else list(keys)
    if missing:
        raise DataError(path, f"is incomplete: it has no {', '.join(missing)}")
    return dict(value)


def read_json_lines(path: str, *keys: str) -> list[dict[str, Any]]:
    """A file of one JSON object per line, each with these keys. Raises MissingInputError or DataError."""
    try:
        rows = [json.loads(line) for line in read_text(path, LARGEST_LIST).split("\n") if line]
    except (ValueError, RecursionError) as error:
        raise DataError(path, f"is not valid JSON lines ({error})") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or any(key not in row for key in keys):
            raise DataError(path, f"line {number} is not a JSON object with {', '.join(keys) or 'keys'}")
    return rows


def path_fields(path: str) -> dict[str, str]:
    """A path as a JSON field: `path` as text, or `path_bytes` as base64 if it is not UTF-8."""
    return fields_of("path", os.fsencode(path))  # file names are bytes; the locale may not be UTF-8


def path_of(fields: Mapping[str, str]) -> str:
    """The inverse of path_fields. Raises KeyError or ValueError."""
    return os.fsdecode(fields["path"].encode() if "path" in fields else base64.b64decode(fields["path_bytes"]))


def label_fields(label: str, name: str = "label") -> dict[str, str]:
    """A class name as a JSON field, like path_fields (class names are folder names)."""
    return fields_of(name, label.encode("utf-8", "surrogateescape"))


def label_of(fields: Mapping[str, str], name: str = "label") -> str:
    """The inverse of label_fields. Raises KeyError or ValueError."""
    content = fields[name].encode() if name in fields else base64.b64decode(fields[f"{name}_bytes"])
    return content.decode("utf-8", "surrogateescape")


def fields_of(name: str, content: bytes) -> dict[str, str]:
    """Field NAME with UTF-8 text, or NAME_bytes with base64 for other bytes."""
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_bytes": base64.b64encode(content).decode()}
