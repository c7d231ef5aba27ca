"""Feature vectors on disk, shared by all runs: every image passes a backbone once, ever.

A space is a folder for what determines a vector beside the image: backbone, weights, preprocessing, precision. It holds
segments: files that are written once, whole, and never changed, so that any number of processes may read and add at
once without locks, and a file that goes away while it is read does no harm. Each row has a checksum.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tlkit.errors import TlkitError
from tlkit.features.cache import cache_root, make_namespace, make_room
from tlkit.features.segments import KEY_BYTES, Lookup, OpenFile, Segment, Vector, checksum, segment_files
from tlkit.files.atomic import write_atomically

SEGMENT_BYTES = 32_000_000


SEGMENT_SECONDS = 5.0
"""A segment is written when so much waits for it, or when so long has passed: what an interruption costs."""


SMALL_SEGMENTS = 32
"""So many segments below half of SEGMENT_BYTES are joined."""


def feature_key(image_digest: bytes, view: str = "") -> bytes:
    """What names a vector, [KEY_BYTES]: the SHA-256 of an image file, and which view of it was taken."""
    return hashlib.sha256(image_digest + view.encode()).digest()[:KEY_BYTES]


class Store(Protocol):
    """What extraction needs of a store."""

    def __contains__(self, key: bytes) -> bool: ...

    def read(self, key: bytes) -> Vector | None:
        """The vector of a key, or None."""

    def write(self, keys: Sequence[bytes], vectors: Vector) -> None:
        """Keep a batch of vectors [B, ...]."""

    def commit(self) -> None:
        """Let others see what was written."""

    def find_segments(self) -> None:
        """See what others have written."""

    def close(self) -> None:
        """Commit what waits."""


class NoStore:
    """Keeps nothing: for a cache folder that cannot be used."""

    def __contains__(self, key: bytes) -> bool:
        return False

    def read(self, key: bytes) -> Vector | None:
        return None

    def write(self, keys: Sequence[bytes], vectors: Vector) -> None:
        pass

    def commit(self) -> None:
        pass

    def find_segments(self) -> None:
        pass

    def close(self) -> None:
        pass


class FeatureStore:
    """One space. Looked up from many threads, read and written from one.

    Nothing that fails here ends a run: it goes on without, and each kind of trouble is said once.
    """

    def __init__(self, root: str, space: Mapping[str, Any], limit: int, warn: Callable[[str], None]) -> None:
        """root: of all spaces. space: what determines the vectors, plain JSON types. limit: bytes on disk in all.

        Raises OSError or TlkitError if the folder cannot be made.
        """
        self.root = root
        self.folder = make_namespace(root, space)
        self.limit = limit
        self.warn = warn
        self.keeps = True
        self.damage_was_said = False
        self.segments: dict[str, Segment] = {}
        self.lookup = Lookup()
        self.waiting: dict[bytes, Vector] = {}
        self.waiting_since = 0.0
        self.used: set[str] = set()
        self.numbers = itertools.count()
        self.file = OpenFile()
        self.find_segments()

    def find_segments(self) -> None:
        """Know the segments that are there now, of this process and others."""
        known, self.segments = self.segments, {}
        for path in segment_files(self.folder):
            try:
                self.segments[path] = known.get(path) or Segment.read(path)
            except OSError:
                continue  # another process has just joined it with others, or it is not ours to read
            except ValueError:
                self.say_damaged(path)
                with contextlib.suppress(OSError):
                    os.unlink(path)
        self.lookup = Lookup.over(list(self.segments.values()))

    def __contains__(self, key: bytes) -> bool:
        return self.lookup.find(key) is not None

    def read(self, key: bytes) -> Vector | None:
        """The vector of a key; None if it is not there, or no longer what was written."""
        for _ in range(2):  # once more where another process has joined segments meanwhile
            found = self.lookup.find(key)
            if found is None:
                return None
            segment, row = found
            content = self.file.read(segment.path, segment.offset + row * segment.row_bytes, segment.row_bytes)
            if content is not None and checksum(key, content) == segment.index["checksum"][row]:
                self.mark_used(segment.path)
                return np.frombuffer(content, np.float32).reshape(segment.shape)
            if content is not None:  # what is written anew lies in a newer segment, which is looked in first
                self.say_damaged(segment.path)
                return None
            self.find_segments()
        return None

    def mark_used(self, path: str) -> None:
        """The least recently used segments go first when room is needed."""
        if path not in self.used:
            self.used.add(path)
            with contextlib.suppress(OSError):
                os.utime(path)

    def write(self, keys: Sequence[bytes], vectors: Vector) -> None:
        """Keep a batch of vectors [B, ...]; they are on disk after SEGMENT_SECONDS at most, or after close().

        A batch is kept whole, so that a run that was interrupted goes on with the same batches.
        """
        if not self.keeps:
            return
        if not self.waiting:
            self.waiting_since = time.monotonic()
        self.waiting |= zip(keys, np.array(vectors, np.float32), strict=True)
        waited = time.monotonic() - self.waiting_since
        if len(self.waiting) * vectors[0].nbytes >= SEGMENT_BYTES or waited >= SEGMENT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Write what waits as one segment."""
        rows, self.waiting = self.waiting, {}
        if not rows or not self.keeps:
            return
        size = sum(vector.nbytes for vector in rows.values())
        path = os.path.join(self.folder, f"{time.time_ns():016x}-{os.getpid():x}-{next(self.numbers)}.segment")
        try:
            if not make_room(self.root, self.limit - size, keep=self.used):
                self.give_up(
                    f"the cache is at its limit, and keeps no more vectors; --cache-limit raises it ({self.root})"
                )
                return
            write_atomically(path, lambda file: Segment.write(file, rows))
        except (OSError, TlkitError) as error:
            self.give_up(f"vectors are not kept from here on: {error}")
            return
        self.used.add(path)
        self.find_segments()

    def give_up(self, why: str) -> None:
        """Go on without writing."""
        self.keeps = False
        self.warn(why)

    def say_damaged(self, path: str) -> None:
        if not self.damage_was_said:
            self.warn(f"{path} is damaged; what it held is computed again")
            self.damage_was_said = True

    def close(self) -> None:
        """Commit what waits, and join small segments."""
        self.commit()
        small = [s for s in self.segments.values() if len(s.index) * s.row_bytes < SEGMENT_BYTES // 2]
        if self.keeps and len(small) >= SMALL_SEGMENTS:
            self.join(small)
        self.file.close()

    def join(self, segments: Sequence[Segment]) -> None:
        """Write the rows of small segments as larger ones, then remove the small ones."""
        for segment in segments:
            for key in map(bytes, segment.index["key"]):
                vector = self.read(key)
                if vector is not None:
                    self.waiting[key] = vector
            if sum(vector.nbytes for vector in self.waiting.values()) >= SEGMENT_BYTES:
                self.commit()
        self.commit()
        if self.keeps:
            for segment in segments:
                with contextlib.suppress(OSError):
                    os.unlink(segment.path)
            self.find_segments()


def open_store(space: Mapping[str, Any], limit: int, warn: Callable[[str], None]) -> Store:
    """The store of a space, or one that keeps nothing if the cache folder cannot be used."""
    try:
        return FeatureStore(cache_root(), space, limit, warn)
    except (OSError, TlkitError) as error:
        warn(f"vectors are not kept between runs: {error}")
        return NoStore()
