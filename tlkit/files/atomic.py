"""Atomic writes: readers see the old content or the new, never a part, also after a crash.

Temporary files have random names and are created exclusively, so two writers never share one: the last whole file wins.
Where `inside` names a folder, no link in it is followed: folders are opened one after the other without following
links, and files are created, renamed and removed relative to them. Without `inside` a link at the path is the user's
choice, and its target is replaced.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import json
import os
import re
import secrets
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, TYPE_CHECKING

from tlkit.errors import OutputError, UnsafeError
from tlkit.files.storage import Measure, writing

if TYPE_CHECKING:
    from typing_extensions import Buffer

TEMPORARY_SUFFIX = ".tlkit-tmp"
TEMPORARY_NAME = re.compile(rf"\.(.{{1,40}})\.[0-9a-f]{{1,16}}{re.escape(TEMPORARY_SUFFIX)}", re.DOTALL)
"""Names of temporary files; the group is the first 40 characters of the name of the file to replace."""

PERMISSIONS = 0o777
"""The bits of a file's mode that its replacement keeps: not that it runs as its owner."""

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def temporary_name(name: str) -> str:
    return f".{name[:40]}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"


@contextlib.contextmanager
def opened_folder(folder: str, inside: str | None = None) -> Iterator[int]:
    """The descriptor of a folder. inside: a folder above it, or itself, below which no link is followed.

    Raises OSError, or UnsafeError for such a link.
    """
    below = os.path.relpath(os.path.abspath(folder), os.path.abspath(inside)) if inside is not None else os.curdir
    descriptor = os.open(inside or folder or os.curdir, FOLDER)
    try:
        for name in [] if below == os.curdir else below.split(os.sep):
            refuse_link(descriptor, name, folder)
            above = descriptor
            descriptor = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=above)
            os.close(above)
        yield descriptor
    finally:
        with contextlib.suppress(OSError):  # nothing was written through it
            os.close(descriptor)


def refuse_link(folder: int, name: str, path: str) -> None:
    """Raises UnsafeError if a name in an open folder is a symbolic link. path: for the message."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISLNK(os.lstat(name, dir_fd=folder).st_mode):
            raise linked(path)


def linked(path: str) -> UnsafeError:
    """The error for a link in a run folder or in the cache."""
    return UnsafeError(
        path,
        "is a symbolic link; expected a file or folder, because tlkit follows no link in a run folder or in the cache",
        f"Delete the link with: rm {shlex.quote(path)}",
    )


@contextlib.contextmanager
def opened_place(path: str, inside: str | None, measure: Measure = lambda: None) -> Iterator[tuple[int, str]]:
    """The open folder and the name of a file to replace. inside: as in opened_folder.

    Raises UnsafeError for a link inside that folder, OutputError for a pipe or device, and as `writing`.
    """
    target = os.path.abspath(path) if inside is not None else os.path.realpath(path)
    with contextlib.ExitStack() as stack:
        with writing(path, measure):
            folder = stack.enter_context(opened_folder(os.path.dirname(target), inside))
            name = os.path.basename(target)
            with contextlib.suppress(FileNotFoundError):
                mode = os.lstat(name, dir_fd=folder).st_mode
                if stat.S_ISLNK(mode) and inside is not None:
                    raise linked(path)
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                    raise OutputError(path, "is a pipe or device; expected a regular file or a new name")
        yield folder, name


@contextlib.contextmanager
def replacing(folder: int, name: str) -> Iterator[str]:
    """Yield a temporary name in an open folder, whose file replaces `name` when the block succeeds."""
    aside = temporary_name(name)
    try:
        yield aside
        os.replace(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
        sync_open(folder)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(aside, dir_fd=folder)


def write_atomically(path: str, write: Callable[[IO[bytes]], object], inside: str | None = None) -> None:
    """Write one file: readers see the old content or the new, never a part, also after a crash.

    write: called again to count bytes if the disk is full. inside: a folder below which no link is followed. An
    existing file keeps its mode. Raises like `opened_place`.
    """
    measure = partial(size_of, write)
    with (
        opened_place(path, inside, measure) as (folder, name),
        writing(path, measure),
        replacing(folder, name) as aside,
    ):
        raw = WatchedFile(aside, "xb", opener=partial(os.open, mode=0o666, dir_fd=folder))
        with io.BufferedWriter(raw) as file:
            try:
                write(file)
                file.flush()
            except Exception as error:
                if raw.failure in (None, error):
                    raise
                raise raw.failure from error  # torch hides the reason of a failed write
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(file.fileno(), PERMISSIONS & os.lstat(name, dir_fd=folder).st_mode)
            os.fsync(file.fileno())


@contextlib.contextmanager
def replaced_when_whole(path: str) -> Iterator[str]:
    """Yield a temporary path for a file or folder that replaces `path` when the block succeeds.

    The path is in a new folder beside `path`. An existing file keeps its mode. Raises like
    `writing`; exceptions of the block pass through, and `path` is unchanged then.
    """
    target = os.path.realpath(path)
    if os.path.exists(target) and not (os.path.isfile(target) or os.path.isdir(target)):
        raise OutputError(path, "is a pipe or device; expected a regular file or a new name")
    above, name = os.path.split(target)
    holder = os.path.join(above, temporary_name(name))
    with writing(path):
        os.mkdir(holder)
    aside = os.path.join(holder, name)
    try:
        yield aside
        with writing(path):
            for entry in os.scandir(aside) if os.path.isdir(aside) else ():
                sync(entry.path)
            if os.path.isfile(aside) and os.path.isfile(target):
                os.chmod(aside, PERMISSIONS & os.stat(target).st_mode)
            sync(aside)
            put_in_place(aside, target)
            sync(above)
    finally:
        remove_tree(holder)


def link_atomically(source: str, target: str, inside: str | None = None) -> None:
    """Make target a hard link to source, which is in the same folder, replacing target atomically.

    inside: as in write_atomically. Raises UnsafeError if source is a link, else like `opened_place`.
    """
    origin = os.path.basename(source)
    with opened_place(target, inside) as (folder, name), writing(target):
        refuse_link(folder, origin, source)
        with replacing(folder, name) as aside:
            try:
                os.link(origin, aside, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except OSError:  # a file system without hard links
                content = os.open(origin, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
                with open(content, "rb") as old, open(aside, "xb", opener=partial(os.open, dir_fd=folder)) as copy:
                    shutil.copyfileobj(old, copy)
                    copy.flush()
                    os.fsync(copy.fileno())


def write_json_atomically(path: str, value: object, inside: str | None = None) -> None:
    """Write an indented JSON document atomically. inside: as in write_atomically."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()), inside)


class WatchedFile(io.FileIO):
    """A file that remembers the error of a failed write."""

    failure: OSError | None = None

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


class OutputFile(io.FileIO):
    """The temporary file for `path`, which must not exist; raises like `writing`."""

    def __init__(self, aside: str, path: str) -> None:
        self.path = path
        with writing(path):
            super().__init__(aside, "xb")

    def write(self, data: Buffer, /) -> int:
        with writing(self.path):
            return super().write(data)


class Counter(io.RawIOBase):
    """Counts the bytes written to it."""

    size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
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


def put_in_place(aside: str, target: str) -> None:
    """Rename to target. Two folders are exchanged, and the old one ends up at `aside`."""
    if not (os.path.isdir(target) and os.path.isdir(aside)):
        os.replace(aside, target)
        return
    try:
        exchange(aside, target)
    except OSError:  # the file system cannot exchange: for a moment neither exists
        old = f"{aside}.old"
        os.rename(target, old)
        try:
            os.rename(aside, target)
        except OSError:
            os.rename(old, target)
            raise


def exchange(one: str, other: str) -> None:
    """Exchange two files or folders atomically. Raises OSError if the file system cannot."""
    here, exchanging = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchanging) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def remove(path: str, inside: str | None = None) -> None:
    """Remove a file, or a link itself, if it exists; ignore errors. inside: as in write_atomically."""
    with contextlib.suppress(OSError, UnsafeError), opened_folder(os.path.dirname(path), inside) as folder:
        os.unlink(os.path.basename(path), dir_fd=folder)


def remove_tree(path: str) -> None:
    """Remove a folder and what it holds, or a file; ignore errors. Links in it are removed, not followed."""
    with contextlib.suppress(OSError):  # rmtree raises some errors despite ignore_errors
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def sync(path: str) -> None:
    """fsync a file, or a folder after renames in it, so that the change survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync_open(descriptor)
    finally:
        os.close(descriptor)


def sync_open(descriptor: int) -> None:
    """fsync an open file or folder."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # the file system cannot sync folders
            raise
