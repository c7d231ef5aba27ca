"""The description of a model as text entries of file metadata. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tlkit.errors import DataError, MismatchError

VERSION = 1
"""Format version of every file that tlkit writes."""

DESCRIPTION_KEY, VERSION_KEY = "tlkit", "tlkit_format"
"""Metadata keys of the description in JSON and of its version."""


def metadata_of(description: Mapping[str, object]) -> dict[str, str]:
    """Metadata entries that describe a model. description: plain JSON types."""
    return {DESCRIPTION_KEY: json.dumps(description), VERSION_KEY: str(VERSION)}


def parse_description(path: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The inverse of metadata_of; other entries are ignored. Raises DataError or MismatchError."""
    text, version = metadata.get(DESCRIPTION_KEY), metadata.get(VERSION_KEY, "")
    if text is None:
        problem = "has no description of classes and preprocessing; expected a file exported by tlkit"
        raise DataError(path, problem)
    if version.isdecimal() and len(version) < 10 and int(version) > VERSION:
        raise newer(path, int(version))
    try:
        description = json.loads(text)
    except (ValueError, RecursionError):  # brackets nested a thousand deep
        description = None
    if not isinstance(description, dict) or version != str(VERSION):
        raise DataError(path, "is damaged: its description cannot be read")
    return description


def newer(path: str, found: int) -> MismatchError:
    """The error for a file of a newer format version."""
    problem = f"has format version {found}, but this tlkit reads up to {VERSION}"
    return MismatchError(path, problem, "Update tlkit to read it.")


def class_names(values: object) -> tuple[str, ...]:
    """Validate class names, each usable as a folder name. Raises TypeError or ValueError."""
    if not isinstance(values, (list, tuple)):
        raise TypeError("classes must be a list")
    if not values or len(set(map(text, values))) != len(values):
        raise ValueError("class names must be unique and not empty")
    for name in values:
        name.encode("utf-8", "surrogateescape")  # raises ValueError for text that no file name can have
    return tuple(values)


def mapping(value: object) -> Mapping[str, object]:
    """Require a mapping. Raises TypeError for anything else."""
    if not isinstance(value, Mapping):
        raise TypeError(f"expected a mapping, not {type(value).__name__}")
    return value


def text(value: object) -> str:
    """Require a string. Raises TypeError for anything else."""
    if not isinstance(value, str):
        raise TypeError(f"expected a string, not {type(value).__name__}")
    return value
