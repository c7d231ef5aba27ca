"""Atomic writes: readers see the old content or the new, never a part, also after a crash."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any

from tlkit.errors import FAILING, FULL, OutputError, StorageError, TlkitError

TEMPORARY_SUFFIX = ".tlkit-tmp"

Measure = Callable[[], int | None]
"""Returns the bytes that a file needs, for the error message when the disk is full; None if unknown."""


def unknown() -> None:
    """A Measure for an unknown size."""


@contextlib.contextmanager
def writing(path: str, measure: Measure = unknown) -> Iterator[None]:
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


@contextlib.contextmanager
def replacing(path: str, measure: Measure = unknown, follow: bool = True) -> Iterator[str]:
    """Yield a temporary path beside `path`; when the block succeeds, its content replaces `path` atomically.

    By rename, then fsync of the folder. If the block fails, `path` is unchanged. follow: replace the target of a
    symbolic link instead of the link. Raises like `writing`; exceptions of the block pass through.
    """
    target = os.path.realpath(path) if follow else os.path.abspath(path)
    if os.path.exists(target) and not (os.path.isfile(target) or os.path.isdir(target)):
        raise OutputError(path, "is a pipe or device; expected a regular file or a new name")
    folder, name = os.path.split(target)
    aside = os.path.join(folder, f".{name[:40]}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        remove(aside)  # of a killed process with the same id
        yield aside
        with writing(path, measure):
            put_in_place(aside, target)
            sync(folder)
    finally:
        remove(aside)


def write_atomically(path: str, write: Callable[[IO[bytes]], object]) -> None:
    """Write one file: readers see the old content or the new, never a part, also after a crash.

    write: called again to count bytes if the disk is full. An existing file keeps its mode. Raises like `writing`.
    """
    measure = partial(size_of, write)
    with replacing(path, measure) as aside, writing(path, measure):
        raw = WatchedFile(aside, "wb")
        with io.BufferedWriter(raw) as file:
            try:
                write(file)
                file.flush()
            except Exception as error:
                if raw.failure in (None, error):
                    raise
                raise raw.failure from error  # torch hides the reason of a failed write
            keep_mode(path, aside)
            os.fsync(file.fileno())


@contextlib.contextmanager
def replaced_when_whole(path: str) -> Iterator[str]:
    """Yield a temporary path for a file or folder that replaces `path` when the block succeeds.

    Raises like `replacing`; the block writes inside `writing`.
    """
    with replacing(path) as aside:
        yield aside
        with writing(path):
            if os.path.isdir(aside):
                for entry in os.scandir(aside):
                    sync(entry.path)
            else:
                keep_mode(path, aside)
            sync(aside)


def link_atomically(source: str, target: str) -> None:
    """Make target a hard link to source, replacing target (also a symbolic link) atomically."""
    with replacing(target, follow=False) as aside, writing(target):
        try:
            os.link(source, aside)
        except OSError:  # a file system without hard links
            with open(source, "rb") as content, open(aside, "wb") as copy:
                shutil.copyfileobj(content, copy)
                copy.flush()
                os.fsync(copy.fileno())


def write_json_atomically(path: str, value: object) -> None:
    """Write an indented JSON document atomically."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


class WatchedFile(io.FileIO):
    """A file that remembers the error of a failed write."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


class OutputFile(io.FileIO):
    """The temporary file for `path`; raises like `writing`."""

    def __init__(self, aside: str, path: str) -> None:
        self.path = path
        with writing(path):
            super().__init__(aside, "wb")

    def write(self, data: Any, /) -> int:
        with writing(self.path):
            return super().write(data)


class Counter(io.RawIOBase):
    """Counts the bytes written to it."""

    size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        written = memoryview(data).nbytes
        self.size += written
        return written


def size_of(write: Callable[[IO[bytes]], object]) -> int | None:
    """The number of bytes that `write` writes; None if it fails."""
    counter = Counter()
    try:
        write(counter)  # type: ignore[arg-type]
    except Exception:  # the full disk is the error to report, not this one
        return None
    return counter.size


def keep_mode(path: str, aside: str) -> None:
    """Copy the mode of an existing file to its replacement."""
    with contextlib.suppress(FileNotFoundError):
        os.chmod(aside, stat.S_IMODE(os.stat(path).st_mode))


def put_in_place(aside: str, target: str) -> None:
    """Rename to target. Two folders are exchanged, and the old one ends up at `aside`."""
    if not (os.path.isdir(target) and os.path.isdir(aside)):
        os.replace(aside, target)
        return
    try:
        exchange(aside, target)
    except OSError:  # the file system cannot exchange: for a moment neither exists
        old = f"{aside}.old{TEMPORARY_SUFFIX}"
        os.rename(target, old)
        try:
            os.rename(aside, target)
        except OSError:
            os.rename(old, target)
            raise
        remove(old)


def exchange(one: str, other: str) -> None:
    """Exchange two files or folders atomically. Raises OSError if the file system cannot."""
    here, exchanging = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchanging) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def remove(path: str) -> None:
    """Remove a file or folder if it exists; ignore errors."""
    with contextlib.suppress(OSError):  # rmtree raises some errors despite ignore_errors
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def sync(path: str) -> None:
    """fsync a file, or a folder after renames in it, so that the change survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # the file system cannot sync folders
            raise
    finally:
        os.close(descriptor)


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


def storage_error(path: str, error: OSError, measure: Measure = unknown) -> TlkitError:
    """The tlkit error for an OSError while writing."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno not in FAILING:
        return OutputError(path, f"cannot be created: {reason}")
    room = describe_room(measure(), bytes_free(os.path.dirname(os.path.realpath(path)))) if error.errno in FULL else ""
    return StorageError(path, f"cannot be written: {reason}{room}", "Existing files are unchanged.")


def describe_room(needed: int | None, free: int | None) -> str:
    """Text about needed and free bytes, as far as known."""
    facts = [f"{needed:,} bytes needed"] if needed is not None else []
    facts += [f"{free:,} bytes free"] if free is not None else []
    return f" ({', '.join(facts)})" if facts else ""


def bytes_free(folder: str) -> int | None:
    """Free bytes on the disk of a folder; None if unknown."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
