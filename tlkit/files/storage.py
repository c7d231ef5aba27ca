"""Errors of the operating system while a file is written, as tlkit errors. Loads no torch."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator

from tlkit.errors import FAILING, FULL, OutputError, StorageError, TlkitError

Measure = Callable[[], int | None]
"""Returns the bytes that a file needs, for the error message when the disk is full; None if unknown."""


@contextlib.contextmanager
def writing(path: str, measure: Measure = lambda: None) -> Iterator[None]:
    """Turn errors of the operating system while writing `path` into tlkit errors.

    Raises OutputError if the file cannot be created, StorageError if the disk is full or failing.
    """
    try:
        yield
    except Exception as error:
        cause = system_error(error, os.path.dirname(os.path.realpath(path)))
        if cause is None:
            raise
        raise storage_error(path, cause, measure) from error


def system_error(error: BaseException, folder: str) -> OSError | None:
    """The OSError that an exception is, was caused by, or hides in its text; None if there is none."""
    if isinstance(error, TlkitError):
        return None
    if isinstance(error, OSError):
        return error
    earlier = error.__cause__ or error.__context__
    while earlier is not None:
        if isinstance(earlier, OSError) and earlier.errno in FAILING:
            return earlier
        earlier = earlier.__cause__ or earlier.__context__
    found = re.search(r"\(os error (\d+)\)", str(error))  # as safetensors reports it
    if found:
        return OSError(int(found[1]), os.strerror(int(found[1])))
    if "PytorchStreamWriter" in str(error) or "unexpected pos" in str(error):  # torch gives no reason
        number = errno.ENOSPC if (bytes_free(folder) or 0) < 1 << 20 else errno.EIO
        return OSError(number, os.strerror(number))
    return None


def storage_error(path: str, error: OSError, measure: Measure = lambda: None) -> TlkitError:
    """The tlkit error for an OSError while writing."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno not in FAILING:
        return OutputError(path, f"cannot be created: {reason}")
    if error.errno == errno.ENOSPC and has_no_inodes(os.path.dirname(os.path.abspath(path))):
        problem = "cannot be written: the file system has no free inodes, so it cannot hold another file"
        return StorageError(path, problem, "Delete files that you do not need. Existing files are unchanged.")
    room = ""
    if error.errno in FULL:
        sizes = {"needed": measure(), "free": bytes_free(os.path.dirname(os.path.realpath(path)))}
        known = ", ".join(f"{size:,} bytes {name}" for name, size in sizes.items() if size is not None)
        room = known and f" ({known})"
    return StorageError(path, f"cannot be written: {reason}{room}", "Existing files are unchanged.")


def has_no_inodes(folder: str) -> bool:
    """Whether the file system of a folder, or of the nearest folder above it, counts inodes and has none left."""
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    found = os.statvfs(folder or ".")
    return found.f_files > 0 and found.f_favail == 0


def bytes_free(folder: str) -> int | None:
    """Free bytes on the disk of a folder; None if unknown."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
