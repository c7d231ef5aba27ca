"""A file that somebody names, opened for reading: regular files only, and every refusal in our words."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from tlkit.errors import DataError, MissingInputError, is_memory
from tlkit.options.network import is_weights_file


def require_weights_file(weights: str) -> None:
    """Raises MissingInputError for a file of weights that is not there."""
    if is_weights_file(weights) and not os.path.exists(weights):
        raise MissingInputError(weights, "no such file; expected pretrained, none, or a file of weights")


@contextmanager
def open_input(path: str) -> Iterator[BinaryIO]:
    """Open a file.

    Raises MissingInputError (not there, or not to be opened) or DataError (a folder, pipe or device; or a disk that
    fails while the block reads it).
    """
    try:
        # A pipe that nobody writes to would keep a plain open waiting for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise MissingInputError(path, "no such file") from None
    except OSError as error:
        raise MissingInputError(path, f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    except ValueError:  # a NUL byte, or what the file system cannot spell
        raise MissingInputError(path, "is no name of a file") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise DataError(path, "is a folder; expected a file" if stat.S_ISDIR(mode) else "is not a regular file")
    with open(descriptor, "rb") as file:
        try:
            yield file
        except OSError as error:
            if is_memory(error):
                raise
            raise DataError(path, f"cannot be read: {(error.strerror or str(error)).lower()}") from error


def size_of(file: BinaryIO) -> int:
    """How many bytes an open file has."""
    return os.fstat(file.fileno()).st_size
