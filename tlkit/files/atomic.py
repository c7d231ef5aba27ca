"""The one way any file is committed: readers see the old content or the new, also after a crash."""

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
"""The bytes that a file needs, asked for when the disk is full; None if it cannot be told."""


def unknown() -> None:
    """A Measure that cannot tell."""


@contextlib.contextmanager
def writing(path: str, measure: Measure = unknown) -> Iterator[None]:
    """Inside, what is to become `path` is written: what the system refuses is told in our words.

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
    """Give a name beside `path`; what lies there when the block ends well takes the place of `path` in one step.

    Renamed, and the folder synced; until then, or if the block fails, what was there stays. follow: what a symbolic
    link leads to is replaced, not the link. Raises as `writing` does, but lets through what the block raises.
    """
    target = os.path.realpath(path) if follow else os.path.abspath(path)
    if os.path.exists(target) and not (os.path.isfile(target) or os.path.isdir(target)):
        raise OutputError(path, "is a pipe or device, and is not replaced")
    folder, name = os.path.split(target)
    aside = os.path.join(folder, f".{name[:40]}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        remove(aside)  # of a process that had this number and was killed
        yield aside
        with writing(path, measure):
            put_in_place(aside, target)
            sync(folder)
    finally:
        remove(aside)


def write_atomically(path: str, write: Callable[[IO[bytes]], object]) -> None:
    """Commit one file: readers see the old content or the new, never a part, also after a crash.

    write: is called once more, to count, if the disk is full. An existing file keeps its mode.
    Raises as `writing` does.
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
                raise raw.failure from error  # torch hides why a write failed
            keep_mode(path, aside)
            os.fsync(file.fileno())


@contextlib.contextmanager
def replaced_when_whole(path: str) -> Iterator[str]:
    """Give a name beside `path` for a file or folder, which takes its place when the block ends well.

    What was there stays until then. Raises as `replacing` does: what the block writes, it writes inside `writing`.
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
    """Make target another name of the file source, replacing what target was, be it a link, in one step."""
    with replacing(target, follow=False) as aside, writing(target):
        try:
            os.link(source, aside)
        except OSError:  # a file system without hard links
            with open(source, "rb") as content, open(aside, "wb") as copy:
                shutil.copyfileobj(content, copy)
                copy.flush()
                os.fsync(copy.fileno())


def write_json_atomically(path: str, value: object) -> None:
    """Commit a JSON document that people can read."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


class WatchedFile(io.FileIO):
    """A file that remembers why a write to it failed."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


class OutputFile(io.FileIO):
    """A file that will take the place of `path`; raises as `writing` does."""

    def __init__(self, aside: str, path: str) -> None:
        self.path = path
        with writing(path):
            super().__init__(aside, "wb")

    def write(self, data: Any, /) -> int:
        with writing(self.path):
            return super().write(data)


class Counter(io.RawIOBase):
    """Counts what is written to it."""

    size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        written = memoryview(data).nbytes
        self.size += written
        return written


def size_of(write: Callable[[IO[bytes]], object]) -> int | None:
    """The bytes that `write` writes; None if it cannot be told."""
    counter = Counter()
    try:
        write(counter)  # type: ignore[arg-type]
    except Exception:  # the full disk is the news, whatever else is wrong
        return None
    return counter.size


def keep_mode(path: str, aside: str) -> None:
    """Give what will replace an existing file that file's mode."""
    with contextlib.suppress(FileNotFoundError):
        os.chmod(aside, stat.S_IMODE(os.stat(path).st_mode))


def put_in_place(aside: str, target: str) -> None:
    """Rename to target. A folder in the place of a folder changes places with it, and the old one is left aside."""
    if not (os.path.isdir(target) and os.path.isdir(aside)):
        os.replace(aside, target)
        return
    try:
        exchange(aside, target)
    except OSError:  # a file system that has no such step: for a moment there is neither
        old = f"{aside}.old{TEMPORARY_SUFFIX}"
        os.rename(target, old)
        try:
            os.rename(aside, target)
        except OSError:
            os.rename(old, target)
            raise
        remove(old)


def exchange(one: str, other: str) -> None:
    """Let two files or folders change places in one step. Raises OSError where that cannot be had."""
    here, exchanging = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchanging) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def remove(path: str) -> None:
    """Remove a file or folder that may not be there, as far as it can be."""
    with contextlib.suppress(OSError):  # which rmtree raises for all that it is told to ignore
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def sync(path: str) -> None:
    """Make what a file holds, or renames inside a folder, last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def system_error(error: BaseException, folder: str) -> OSError | None:
    """The operating system's refusal to write that an exception is, comes from, or hides; None for any other."""
    if isinstance(error, TlkitError):
        return None
    if isinstance(error, OSError):
        return error
    earlier = error.__cause__ or error.__context__
    while earlier is not None:
        if isinstance(earlier, OSError) and earlier.errno in FAILING:
            return earlier
        earlier = earlier.__cause__ or earlier.__context__
    told = re.search(r"\(os error (\d+)\)", str(error))  # as safetensors does
    if told:
        return OSError(int(told[1]), os.strerror(int(told[1])))
    if "PytorchStreamWriter" in str(error) or "unexpected pos" in str(error):  # torch names no reason
        number = errno.ENOSPC if (bytes_free(folder) or 0) < 1 << 20 else errno.EIO
        return OSError(number, os.strerror(number))
    return None


def storage_error(path: str, error: OSError, measure: Measure = unknown) -> TlkitError:
    """An operating system's refusal to write, in our words and with our exit code."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno not in FAILING:
        return OutputError(path, f"cannot be created: {reason}")
    room = describe_room(measure(), bytes_free(os.path.dirname(os.path.realpath(path)))) if error.errno in FULL else ""
    return StorageError(path, f"cannot be written: {reason}{room}", "Nothing that was there before is lost.")


def describe_room(needed: int | None, free: int | None) -> str:
    """What a file needs and what there is, as far as it is known."""
    facts = [f"{needed:,} bytes needed"] if needed is not None else []
    facts += [f"{free:,} bytes free"] if free is not None else []
    return f" ({', '.join(facts)})" if facts else ""


def bytes_free(folder: str) -> int | None:
    """Room on the disk of a folder; None if it cannot be told."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
