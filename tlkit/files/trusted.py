"""The only place that runs code from a file, and only for the file named with --trust-pickle."""

from __future__ import annotations

import os
from typing import Any

import torch

from tlkit.errors import DataError, first_line, is_memory
from tlkit.files.pickles import unsafe


def is_trusted(path: str, trusted: str | None) -> bool:
    """Whether this is the file named with --trust-pickle."""
    try:
        return trusted is not None and os.path.samefile(path, trusted)
    except OSError:
        return False


def unpickle(path: str, trusted: str | None) -> Any:
    """Unpickle a torch file including code, tensors on the CPU. Raises UnsafeError or DataError."""
    require_trust(path, trusted)
    try:
        with open(path, "rb") as file:
            return torch.load(file, map_location="cpu", weights_only=False)
    except Exception as error:  # the code in the file may raise anything
        if is_memory(error):
            raise
        raise DataError(path, f"cannot be unpickled ({type(error).__name__}: {first_line(error)[:120]})") from error


def load_program(path: str, trusted: str | None) -> Any:
    """Load a torch.export file, which can run any code. Raises UnsafeError."""
    require_trust(path, trusted)
    with open(path, "rb") as file:  # given a path, torch requires the suffix .pt2
        return torch.export.load(file)


def require_trust(path: str, trusted: str | None) -> None:
    """Raises UnsafeError unless this is the trusted file."""
    if not is_trusted(path, trusted):
        raise unsafe(path, "opening it would run code")
