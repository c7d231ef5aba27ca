"""Open user-supplied files for reading: regular files only, with tlkit errors."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from tlkit.errors import DataError, MissingInputError, is_memory
from tlkit.options.network import is_weights_file


def require_weights_file(weights: str) -> None:
    """Raises MissingInputError if a weights file does not exist."""
    if is_weights_file(weights) and not os.path.exists(weights):
        raise MissingInputError(weights, "no such file; expected pretrained, none, or a file or folder of weights")


SMALL = 64 << 20
"""Bytes that are read whatever a file consists of."""


@contextmanager
def open_input(path: str) -> Iterator[BinaryIO]:
    """Open a regular file for reading.

    Raises MissingInputError (missing, or no permission) or DataError (a folder, pipe or device, a large file of holes,
    or a read error inside the block).
    """
    try:
        # Opening a pipe without a writer would block for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise MissingInputError(path, "no such file") from None
    except OSError as error:
        raise MissingInputError(path, f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    except ValueError:  # a NUL byte, or characters that the file system cannot encode
        raise MissingInputError(path, "is not a valid file name") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise DataError(path, "is a folder; expected a file" if stat.S_ISDIR(mode) else "is not a regular file")
    with open(descriptor, "rb") as file:
        try:
            if is_hollow(descriptor):
                raise DataError(path, f"is not whole: of its {size_of(file):,} bytes nearly all are holes")
            yield file
        except OSError as error:
            if is_memory(error):
                raise
            raise DataError(path, f"cannot be read: {(error.strerror or str(error)).lower()}") from error


def is_hollow(descriptor: int) -> bool:
    """Whether a large file has content in less than a hundredth of its length: reading it could take for ever."""
    status = os.fstat(descriptor)
    if status.st_size < SMALL or status.st_blocks * 512 * 100 >= status.st_size:
        return False
    hole = os.lseek(descriptor, 0, os.SEEK_HOLE)  # some file systems count no blocks, and have no holes
    os.lseek(descriptor, 0, os.SEEK_SET)
    return hole < status.st_size


def size_of(file: BinaryIO) -> int:
    """Size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size
