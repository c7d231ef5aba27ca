"""Files of the cache folder, into which other users may be able to write.

The cache folder contains layout folders, these contain feature sets, and these contain files. Below the cache folder no
link is followed, only regular files are opened, and only this user's files with names of tlkit's are deleted. Files of
other users are read like one's own: a checksum is verified first.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from typing import BinaryIO

from tlkit.errors import UnsafeError
from tlkit.files.atomic import TEMPORARY_NAME, opened_folder

DESCRIPTION_FILE, GRAPH_FILE, SEGMENT_SUFFIX = "space.json", "graph.onnx", ".segment"
LARGEST_DESCRIPTION, LARGEST_GRAPH = 1 << 20, 1 << 31
"""Bytes. Larger files are not read: a hole in a file costs its writer nothing."""

NAMES = re.compile(
    rf"{DESCRIPTION_FILE}|{GRAPH_FILE}|[0-9a-f-]+{re.escape(SEGMENT_SUFFIX)}|{TEMPORARY_NAME.pattern}", re.DOTALL
)
"""Names of the files in a feature set."""


def cache_above(folder: str) -> str:
    """The cache folder of a feature set."""
    return os.path.dirname(os.path.dirname(os.path.abspath(folder)))


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """Open a file of a feature set for reading. Raises OSError or UnsafeError for anything but a regular file."""
    folder, name = os.path.split(path)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe without a writer would block for ever
    with (
        opened_folder(folder, cache_above(folder)) as above,
        open(name, "rb", opener=lambda name, _: os.open(name, flags, dir_fd=above)) as file,
    ):
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is not a regular file")
        yield file


def files_of(folder: str) -> list[tuple[str, os.stat_result]]:
    """(path, status) of the regular files with names of tlkit's in a feature set, in byte order of their names."""
    found = []
    with contextlib.suppress(OSError, UnsafeError), opened_folder(folder, cache_above(folder)) as descriptor:
        for name in sorted(filter(NAMES.fullmatch, os.listdir(descriptor))):
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(name, dir_fd=descriptor)
                if stat.S_ISREG(status.st_mode):
                    found.append((os.path.join(folder, name), status))
    return found


def segment_files(folder: str) -> list[str]:
    """The segments of a feature set, oldest first."""
    return [path for path, _ in files_of(folder) if path.endswith(SEGMENT_SUFFIX)]


def is_own(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid()


def unlink_own(path: str) -> int:
    """Delete a file of a feature set if it is a regular file of this user. Returns its bytes, or 0.

    Raises OSError or UnsafeError.
    """
    folder, name = os.path.split(path)
    with opened_folder(folder, cache_above(folder)) as above:
        status = os.lstat(name, dir_fd=above)
        if not (stat.S_ISREG(status.st_mode) and is_own(status)):
            return 0
        os.unlink(name, dir_fd=above)
        return status.st_size


def remove_own(path: str) -> int:
    """Like unlink_own, but 0 if that fails."""
    with contextlib.suppress(OSError, UnsafeError):
        return unlink_own(path)
    return 0


def remove_empty(folder: str, cache: str) -> None:
    """Remove a folder below the cache folder if it is empty."""
    with contextlib.suppress(OSError, UnsafeError), opened_folder(os.path.dirname(folder), cache) as above:
        os.rmdir(os.path.basename(folder), dir_fd=above)
