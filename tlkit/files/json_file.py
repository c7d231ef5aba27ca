"""JSON documents of run folders and exports, read back. Loads no torch."""

from __future__ import annotations

import json
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
