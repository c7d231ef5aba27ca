"""The cache folder: location, contents and size limit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tlkit.errors import UnsafeError
from tlkit.features.cache_files import (
    DESCRIPTION_FILE,
    LARGEST_DESCRIPTION,
    cache_above,
    files_of,
    is_own,
    opened,
    remove_empty,
    remove_own,
    segment_files,
    unlink_own,
)
from tlkit.features.segments import Segment
from tlkit.files.atomic import TEMPORARY_SUFFIX, opened_folder, write_atomically

LAYOUT = "features-2"
"""Folder name, changed with the file layout, so that versions of tlkit do not read each other's files."""

ABANDONED_SECONDS = 3600
"""Age from which on a temporary file is of a killed process."""

Namespace = Mapping[str, object]
"""The description of a feature set: plain JSON types."""


def cache_folder() -> str:
    """The cache folder: TLKIT_CACHE, else tlkit in the user's cache folder."""
    chosen = os.environ.get("TLKIT_CACHE")
    return chosen or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "tlkit")


def cache_root() -> str:
    """The folder of all feature sets."""
    return os.path.join(cache_folder(), LAYOUT)


def namespace_folder(root: str, space: Namespace) -> str:
    """The folder of the feature set with this description."""
    return os.path.join(root, hashlib.sha256(namespace_text(space)).hexdigest()[:16])


def namespace_text(space: Namespace) -> bytes:
    """The description file of a feature set."""
    return json.dumps(dict(space), indent=2, sort_keys=True).encode()


def make_namespace(root: str, space: Namespace) -> str:
    """The folder of a feature set, created if missing. Raises OSError or TlkitError, also where it is a link."""
    folder = namespace_folder(root, space)
    cache, description = cache_above(folder), os.path.join(folder, DESCRIPTION_FILE)
    os.makedirs(cache, exist_ok=True)
    for path in (root, folder):
        with opened_folder(os.path.dirname(path), cache) as above, contextlib.suppress(FileExistsError):
            os.mkdir(os.path.basename(path), dir_fd=above)
    with opened_folder(folder, cache):  # it may have existed: as a link, or as something else
        if not os.path.lexists(description):
            write_atomically(description, lambda file: file.write(namespace_text(space)), cache)
    return folder


def make_room(root: str, limit: int, keep: Collection[str]) -> bool:
    """Delete least recently used segments and graphs until the cache has at most `limit` bytes, except `keep`.

    Only this user's files count, because no other files are deleted. Returns whether that was possible.
    """
    files: list[tuple[float, int, str]] = []
    for folder in list_feature_sets(root):
        for path, status in files_of(folder):
            if path.endswith(TEMPORARY_SUFFIX):
                if time.time() - status.st_mtime > ABANDONED_SECONDS:
                    remove_own(path)
            elif is_own(status) and os.path.basename(path) != DESCRIPTION_FILE:
                files.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, _, path in sorted(files):
        if total <= limit:
            break
        if path not in keep:
            total -= remove_own(path)
    return total <= limit


def folders_in(folder: str, cache: str, pattern: str) -> list[str]:
    """Folders in a folder of the cache whose names match, in byte order. Links are none, and are not followed."""
    with contextlib.suppress(OSError, UnsafeError), opened_folder(folder, cache) as above, os.scandir(above) as entries:
        names = [e.name for e in entries if re.fullmatch(pattern, e.name) and e.is_dir(follow_symlinks=False)]
        return [os.path.join(folder, name) for name in sorted(names)]
    return []


def list_feature_sets(root: str) -> list[str]:
    """The folders of all feature sets below a root."""
    return folders_in(root, os.path.dirname(os.path.abspath(root)), "[0-9a-f]{16}")


@dataclass(frozen=True)
class FeatureSetSummary:
    """Summary of a feature set. used: time of the last read or write, in seconds since 1970."""

    folder: str
    description: Namespace
    features: int
    size: int
    used: float


def summarize(folder: str) -> FeatureSetSummary:
    """Summarize a feature set. Unreadable files count only with their size."""
    files = [status for path, status in files_of(folder) if os.path.basename(path) != DESCRIPTION_FILE]
    features, description = 0, dict[str, object]()
    damage = (OSError, ValueError, TypeError, RecursionError, UnsafeError)
    for path in segment_files(folder):
        with contextlib.suppress(*damage):
            features += len(Segment.read(path).index)
    with contextlib.suppress(*damage), opened(os.path.join(folder, DESCRIPTION_FILE)) as file:
        description = dict(json.loads(file.read(LARGEST_DESCRIPTION)))
    used = max((status.st_mtime for status in files), default=0.0)
    return FeatureSetSummary(folder, description, features, sum(status.st_size for status in files), used)


def clear(cache: str) -> tuple[int, int]:
    """Delete this user's files of all feature sets of all versions. Returns (freed bytes, files of other users).

    Raises OSError or UnsafeError if a file cannot be deleted.
    """
    freed, left = 0, 0
    for root in folders_in(cache, cache, "features-[0-9]+"):
        for folder in list_feature_sets(root):
            for path, _ in files_of(folder):
                freed += unlink_own(path)
            left += len(files_of(folder))
            remove_empty(folder, cache)
        remove_empty(root, cache)
    return freed, left
