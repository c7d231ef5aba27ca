"""What a model says about itself, as text in the metadata of a file that has some. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tlkit.errors import DataError, MismatchError

VERSION = 1
"""Of every file of ours, whatever holds it."""


DESCRIPTION_KEY, VERSION_KEY = "tlkit", "tlkit_format"
"""The description in JSON, and the version of that."""


def metadata_of(description: Mapping[str, Any]) -> dict[str, str]:
    """The entries that describe a model. description: plain JSON types."""
    return {DESCRIPTION_KEY: json.dumps(description), VERSION_KEY: str(VERSION)}


def parse_description(path: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The inverse of metadata_of, among other entries. Raises DataError or MismatchError."""
    text, version = metadata.get(DESCRIPTION_KEY), metadata.get(VERSION_KEY, "")
    if text is None:
        problem = "does not say which classes and preprocessing it has; expected a file that tlkit exported"
        raise DataError(path, problem)
    if version.isdecimal() and len(version) < 10 and int(version) > VERSION:
        raise newer(path, int(version))
    try:
        description = json.loads(text)
    except (ValueError, RecursionError):  # brackets nested a thousand deep
        description = None
    if not isinstance(description, dict) or version != str(VERSION):
        raise DataError(path, "is damaged: what it says about itself cannot be read")
    return description


def newer(path: str, found: int) -> MismatchError:
    """The refusal of a file by a tlkit that is older."""
    problem = f"has format version {found}, but this tlkit reads up to {VERSION}"
    return MismatchError(path, problem, "Update tlkit to read it.")


def class_names(values: Any) -> tuple[str, ...]:
    """The names of classes, each of which can name a folder. Raises TypeError or ValueError for what cannot be that."""
    if not isinstance(values, (list, tuple)):
        raise TypeError("classes are a list")
    if not values or len(set(map(text, values))) != len(values):
        raise ValueError("each class has a name of its own")
    for name in values:
        name.encode("utf-8", "surrogateescape")  # what cannot be written so is ValueError
    return tuple(values)


def text(value: Any) -> str:
    """A text. Raises TypeError for anything else."""
    if not isinstance(value, str):
        raise TypeError(f"a text was expected, not a {type(value).__name__}")
    return value
