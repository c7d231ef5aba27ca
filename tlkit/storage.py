"""The one way any file is committed: readers see the old content or the new, also after a crash. And JSON read back."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from typing import IO, Any

from tlkit.errors import DataError, MissingInputError, OutputError, StorageError, TlkitError

TEMPORARY_SUFFIX = ".tlkit-tmp"


def write_atomically(path: str, write: Callable[[IO[bytes]], object]) -> None:
    """Commit one file: readers see the old content or the new, never a part, also after a crash.

    Written aside in the same folder, synced, renamed, and the folder synced. A symbolic link is followed, an
    existing file keeps its mode. Raises OutputError if the file cannot be created, StorageError if the disk
    is full or failing; the old content is then untouched.
    """
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".{os.path.basename(target)}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            if os.path.exists(target):
                os.fchmod(file.fileno(), stat.S_IMODE(os.stat(target).st_mode))
            os.fsync(file.fileno())
        os.replace(temporary, target)
        sync(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise storage_error(path, error) from error
        raise


@contextlib.contextmanager
def replaced_when_whole(path: str) -> Iterator[str]:
    """Give a name beside `path` for a file or folder, which takes its place when the block ends well.

    What was there stays until then. A symbolic link is followed. Raises OutputError or StorageError.
    """
    target = os.path.realpath(path)
    aside, old = f"{target}.{os.getpid()}{TEMPORARY_SUFFIX}", f"{target}.{os.getpid()}.old{TEMPORARY_SUFFIX}"
    try:
        yield aside
        if os.path.isdir(target):  # no file system replaces a folder in one step
            os.rename(target, old)
        elif os.path.exists(target):
            os.chmod(aside, stat.S_IMODE(os.stat(target).st_mode))
        for written in [aside, *(entry.path for entry in os.scandir(aside))] if os.path.isdir(aside) else [aside]:
            sync(written)
        os.replace(aside, target)
        sync(os.path.dirname(target))
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        for leftover in (aside, old):
            if os.path.isdir(leftover):
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(leftover)


def write_json_atomically(path: str, value: object) -> None:
    """Commit a JSON document that people can read."""
    text = json.dumps(value, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def link_atomically(source: str, target: str) -> None:
    """Make target another name of the file source, replacing what target was in one step."""
    temporary = f"{target}.{os.getpid()}{TEMPORARY_SUFFIX}"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        try:
            os.link(source, temporary)
        except OSError:  # a file system without hard links
            with open(source, "rb") as content:
                write_atomically(target, lambda file: shutil.copyfileobj(content, file))
            return
        os.replace(temporary, target)
        # Renaming a file onto another name of itself does nothing, so the temporary name may be left.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        sync(os.path.dirname(target))
    except OSError as error:
        raise storage_error(target, error) from error


def sync(path: str) -> None:
    """Make what a file holds, or renames inside a folder, last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(path: str, error: OSError) -> TlkitError:
    """An operating system's refusal to write, in our words and with our exit code."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
        return StorageError(path, f"cannot be written: {reason}", "Nothing that was there before is lost.")
    return OutputError(path, f"cannot be created: {reason}")


def read_json(path: str) -> Any:
    """A JSON document. Raises MissingInputError or DataError."""
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except OSError as error:
        raise MissingInputError(path, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(path, f"is not valid JSON ({error})") from error


def read_whole_json(path: str, *keys: str) -> dict[str, Any]:
    """A JSON object with these keys. Raises MissingInputError or DataError."""
    value = read_json(path)
    missing = [key for key in keys if key not in value] if isinstance(value, dict) else list(keys)
    if missing:
        raise DataError(path, f"is not whole: it has no {', '.join(missing)}")
    return dict(value)
