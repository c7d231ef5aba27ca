"""The cache folder: location, contents and size limit."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tlkit.features.segments import Segment, segment_files
from tlkit.files.atomic import TEMPORARY_SUFFIX, write_atomically

LAYOUT = "features-2"
"""Folder name, changed with the file layout, so that versions of tlkit do not read each other's files."""

DESCRIPTION = "space.json"


def cache_folder() -> str:
    """The cache folder: TLKIT_CACHE, else tlkit in the user's cache folder."""
    chosen = os.environ.get("TLKIT_CACHE")
    return chosen or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "tlkit")


def cache_root() -> str:
    """The folder of all feature sets."""
    return os.path.join(cache_folder(), LAYOUT)


def namespace_folder(root: str, space: Mapping[str, Any]) -> str:
    """The folder of the feature set with this description (plain JSON types)."""
    return os.path.join(root, hashlib.sha256(namespace_text(space).encode()).hexdigest()[:16])


def namespace_text(space: Mapping[str, Any]) -> str:
    """The description file of a feature set."""
    return json.dumps(dict(space), indent=2, sort_keys=True)


def make_namespace(root: str, space: Mapping[str, Any]) -> str:
    """The folder of a feature set, created if missing. Raises OSError or TlkitError."""
    folder = namespace_folder(root, space)
    os.makedirs(folder, exist_ok=True)
    description = os.path.join(folder, DESCRIPTION)
    if not os.path.exists(description):
        write_atomically(description, lambda file: file.write(namespace_text(space).encode()))
    return folder


def graph_file(folder: str) -> str:
    """The ONNX graph of the backbone of a feature set."""
    return os.path.join(folder, "graph.onnx")


def kept_files(folder: str) -> Iterator[str]:
    """Files of a feature set that may be deleted to free space."""
    return itertools.chain(segment_files(folder), filter(os.path.exists, [graph_file(folder)]))


def make_room(root: str, limit: int, keep: Collection[str]) -> bool:
    """Delete least recently used segments and graphs until the cache has at most `limit` bytes, except `keep`.

    Returns whether that was possible.
    """
    files = all_kept(root)
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            break
        if path not in keep:
            with contextlib.suppress(OSError):
                os.unlink(path)
                total -= size
    return total <= limit


def all_kept(root: str) -> list[tuple[float, int, str]]:
    """(last use, bytes, path) of every file, without leftovers of killed processes."""
    files: list[tuple[float, int, str]] = []
    for space in list_feature_sets(root):
        remove_leftovers(space)
        for path in kept_files(space):
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(path)
                files.append((status.st_mtime, status.st_size, path))
    return files


def remove_leftovers(space: str) -> None:
    """Delete temporary files of killed processes, once they are too old to be in use."""
    for entry in os.scandir(space):
        if entry.name.endswith(TEMPORARY_SUFFIX):
            with contextlib.suppress(OSError):
                if time.time() - entry.stat().st_mtime > 3600:
                    os.unlink(entry.path)


def list_feature_sets(root: str) -> list[str]:
    """The folders of all feature sets below a root."""
    try:
        return sorted(entry.path for entry in os.scandir(root) if entry.is_dir())
    except FileNotFoundError:
        return []


@dataclass(frozen=True)
class FeatureSetSummary:
    """Summary of a feature set. used: time of the last read or write, in seconds since 1970."""

    folder: str
    description: dict[str, Any]
    features: int
    size: int
    used: float


def summarize(folder: str) -> FeatureSetSummary:
    """Summarize a feature set. Unreadable files count only with their size."""
    features, size, used = 0, 0, 0.0
    for path in kept_files(folder):
        with contextlib.suppress(OSError):
            status = os.stat(path)
            size, used = size + status.st_size, max(used, status.st_mtime)
    for path in segment_files(folder):
        with contextlib.suppress(OSError, ValueError):
            features += len(Segment.read(path).index)
    description: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError), open(os.path.join(folder, DESCRIPTION), encoding="utf-8") as file:
        description = dict(json.load(file))
    return FeatureSetSummary(folder, description, features, size, used)


def clear(root: str) -> int:
    """Delete all feature sets below a cache folder, of all versions. Returns the freed bytes."""
    freed = 0
    for entry in list(os.scandir(root)) if os.path.isdir(root) else []:
        if entry.name.startswith("features-") and entry.is_dir(follow_symlinks=False):
            for folder, _, names in os.walk(entry.path):
                for name in names:
                    with contextlib.suppress(OSError):
                        freed += os.stat(os.path.join(folder, name)).st_size
            shutil.rmtree(entry.path)
    return freed
