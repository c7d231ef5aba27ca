"""The options that a run folder or checkpoint from anybody holds."""

from __future__ import annotations

from typing import Any

from tlkit.errors import DataError, UsageError
from tlkit.files.artifact import as_content_of
from tlkit.options import FinetuneOptions


def stored_options(path: str, stored: Any) -> FinetuneOptions:
    """The options that a file holds. Raises DataError naming path."""
    try:
        with as_content_of(path, "record of options"):
            return FinetuneOptions.from_dict(stored)
    except UsageError as error:
        raise DataError(path, f"holds options that no run has: {error}") from error
