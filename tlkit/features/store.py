"""The feature cache on disk, shared by all runs: an image passes a backbone only once.

A feature set is a folder for one combination of backbone, weights, preprocessing and precision. It contains segments:
immutable files, written atomically, so that any number of processes can read and write at the same time without locks,
and a segment may be deleted while others read it. Each row has a checksum.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Sequence

import numpy as np

from tlkit.errors import TlkitError
from tlkit.features.cache import Namespace, cache_root, make_namespace, make_room
from tlkit.features.cache_files import SEGMENT_SUFFIX, cache_above, remove_own, segment_files
from tlkit.features.segments import KEY_BYTES, FeatureArray, Lookup, OpenFile, Segment, checksum
from tlkit.files.atomic import write_atomically

SEGMENT_BYTES = 32_000_000

SEGMENT_SECONDS = 5.0
"""A segment is written after this many bytes or seconds; an interruption loses at most that much."""

SMALL_SEGMENTS = 32
"""This many segments smaller than half of SEGMENT_BYTES are merged."""


def feature_key(image_digest: bytes, view: str = "") -> bytes:
    """Key of a feature vector [KEY_BYTES]: hash of the image file and of the view."""
    return hashlib.sha256(image_digest + view.encode()).digest()[:KEY_BYTES]


class NoStore:
    """A store that stores nothing, for --no-cache or an unusable cache folder."""

    def __contains__(self, key: bytes) -> bool:
        return False

    def read(self, key: bytes) -> FeatureArray | None:
        return None

    def write(self, keys: Sequence[bytes], features: FeatureArray) -> None:
        pass

    def commit(self) -> None:
        pass

    def find_segments(self) -> None:
        pass

    def close(self) -> None:
        pass


class FeatureStore:
    """One feature set. Lookups are thread-safe; read and write from one thread.

    Errors never stop a run: it continues without the cache, and each kind of error is logged once.
    """

    def __init__(self, root: str, space: Namespace, limit: int, warn: Callable[[str], None]) -> None:
        """root: folder of all feature sets. space: its description. limit: bytes of the cache.

        Raises OSError or TlkitError if the folder cannot be created.
        """
        self.root = root
        self.folder = make_namespace(root, space)
        self.limit = limit
        self.warn = warn
        self.keeps = True
        self.damage_was_said = False
        self.segments: dict[str, Segment] = {}
        self.lookup = Lookup()
        self.waiting: dict[bytes, FeatureArray] = {}
        self.waiting_since = 0.0
        self.used: set[str] = set()
        self.file = OpenFile()
        self.find_segments()

    def find_segments(self) -> None:
        """Find the segments that exist now, of this process and others."""
        known, self.segments = self.segments, {}
        for path in segment_files(self.folder):
            try:
                self.segments[path] = known.get(path) or Segment.read(path)
            except (OSError, TlkitError):
                continue  # another process has merged it, or it is not readable
            except ValueError:
                self.say_damaged(path)
                remove_own(path)
        self.lookup = Lookup.over(list(self.segments.values()))

    def __contains__(self, key: bytes) -> bool:
        return self.lookup.find(key) is not None

    def read(self, key: bytes) -> FeatureArray | None:
        """The features of a key; None if missing or damaged."""
        for _ in range(2):  # a second time, in case another process has merged segments meanwhile
            found = self.lookup.find(key)
            if found is None:
                return None
            segment, row = found
            content = self.file.read(segment.path, segment.offset + row * segment.row_bytes, segment.row_bytes)
            if content is not None and checksum(key, content) == segment.index["checksum"][row]:
                self.mark_used(segment.path)
                return np.frombuffer(content, np.float32).reshape(segment.shape)
            if content is not None:  # rewritten features are in a newer segment, which is searched first
                self.say_damaged(segment.path)
                return None
            self.find_segments()
        return None

    def mark_used(self, path: str) -> None:
        """Mark segments as used: the least recently used are deleted first."""
        if path not in self.used:
            self.used.add(path)
            with contextlib.suppress(OSError):
                os.utime(path, follow_symlinks=False)

    def write(self, keys: Sequence[bytes], features: FeatureArray) -> None:
        """Store a batch of features [B, ...]; on disk after at most SEGMENT_SECONDS, or after close().

        A batch is never divided, so that an interrupted run resumes with the same batches.
        """
        if not self.keeps:
            return
        if not self.waiting:
            self.waiting_since = time.monotonic()
        self.waiting |= zip(keys, np.array(features, np.float32), strict=True)
        waited = time.monotonic() - self.waiting_since
        if len(self.waiting) * features[0].nbytes >= SEGMENT_BYTES or waited >= SEGMENT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Write buffered features as one segment."""
        rows, self.waiting = self.waiting, {}
        if not rows or not self.keeps:
            return
        size = sum(row.nbytes for row in rows.values())
        name = f"{time.time_ns():016x}-{secrets.token_hex(8)}{SEGMENT_SUFFIX}"
        path = os.path.join(self.folder, name)
        try:
            if not make_room(self.root, self.limit - size, keep=self.used):
                self.give_up(
                    f"the cache in {self.root} is full, so features are not cached from here on; "
                    f"raise the limit, for example with --cache-limit {max(1, 2 * self.limit // 10**9)}GB"
                )
                return
            write_atomically(path, lambda file: Segment.write(file, rows), cache_above(self.folder))
        except (OSError, TlkitError) as error:
            self.give_up(f"features are not cached from here on: {error}")
            return
        self.used.add(path)
        self.find_segments()

    def give_up(self, why: str) -> None:
        """Stop writing to the cache."""
        self.keeps = False
        self.warn(why)

    def say_damaged(self, path: str) -> None:
        if not self.damage_was_said:
            self.warn(f"{path} is damaged; its features are computed again")
            self.damage_was_said = True

    def close(self) -> None:
        """Write buffered features and merge small segments."""
        self.commit()
        small = [s for s in self.segments.values() if len(s.index) * s.row_bytes < SEGMENT_BYTES // 2]
        if self.keeps and len(small) >= SMALL_SEGMENTS:
            self.join(small)
        self.file.close()

    def join(self, segments: Sequence[Segment]) -> None:
        """Merge small segments into larger ones, then delete the small ones."""
        for segment in segments:
            for key in map(bytes, segment.index["key"]):
                row = self.read(key)
                if row is not None:
                    self.waiting[key] = row
            if sum(row.nbytes for row in self.waiting.values()) >= SEGMENT_BYTES:
                self.commit()
        self.commit()
        if self.keeps:
            for segment in segments:
                remove_own(segment.path)
            self.find_segments()


Store = FeatureStore | NoStore


def open_store(space: Namespace, limit: int, warn: Callable[[str], None]) -> Store:
    """Open the store of a feature set; a NoStore if the cache folder cannot be used."""
    try:
        return FeatureStore(cache_root(), space, limit, warn)
    except (OSError, TlkitError) as error:
        warn(f"features are not cached: {error}")
        return NoStore()
