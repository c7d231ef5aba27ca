"""JSON documents of run folders and exports, read back. Loads no torch."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from typing import Any

from tlkit.errors import DataError
from tlkit.files.inputs import open_input


def read_json(path: str) -> Any:
    """A JSON document. Raises MissingInputError or DataError."""
    with open_input(path) as file:
        content = file.read()
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise DataError(path, f"is not valid JSON ({error})") from error


def read_whole_json(path: str, *keys: str) -> dict[str, Any]:
    """A JSON object with these keys. Raises MissingInputError or DataError."""
    value = read_json(path)
    missing = [key for key in keys if key not in value] if isinstance(value, dict) else list(keys)
    if missing:
        raise DataError(path, f"is not whole: it has no {', '.join(missing)}")
    return dict(value)


def read_json_lines(path: str, *keys: str) -> list[dict[str, Any]]:
    """A file of one JSON object per line, each with these keys. Raises MissingInputError or DataError."""
    with open_input(path) as file:
        try:
            rows = [json.loads(line) for line in file]
        except (ValueError, RecursionError) as error:
            raise DataError(path, f"is not valid JSON lines ({error})") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or any(key not in row for key in keys):
            raise DataError(path, f"line {number} is not a JSON object with {', '.join(keys) or 'keys'}")
    return rows


def path_fields(path: str) -> dict[str, str]:
    """The path as JSON can say it: text, or base64 of its bytes."""
    return fields_of("path", os.fsencode(path))  # the locale may have another idea of file names than UTF-8


def path_of(fields: Mapping[str, str]) -> str:
    """The inverse of path_fields. Raises KeyError or ValueError."""
    return os.fsdecode(fields["path"].encode() if "path" in fields else base64.b64decode(fields["path_bytes"]))


def label_fields(label: str, name: str = "label") -> dict[str, str]:
    """The name of a class likewise: it was the name of a folder."""
    return fields_of(name, label.encode("utf-8", "surrogateescape"))


def label_of(fields: Mapping[str, str], name: str = "label") -> str:
    """The inverse of label_fields. Raises KeyError or ValueError."""
    content = fields[name].encode() if name in fields else base64.b64decode(fields[f"{name}_bytes"])
    return content.decode("utf-8", "surrogateescape")


def fields_of(name: str, content: bytes) -> dict[str, str]:
    """A field of that name with a text in UTF-8; of other bytes, a field NAME_bytes."""
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_bytes": base64.b64encode(content).decode()}
