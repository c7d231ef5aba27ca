"""Segments: immutable files of features, and the lookup of keys in them."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import IO

import numpy as np
from numpy.typing import NDArray

from tlkit.errors import TlkitError
from tlkit.features.cache_files import opened
from tlkit.files.checksum import DIGITS, Hashing, sha256_with

FeatureArray = NDArray[np.float32]
KEY_BYTES = 16
INDEX = np.dtype([("key", "u1", KEY_BYTES), ("checksum", "<u4")])

LARGEST_INDEX, LARGEST_ROW = 64 << 20, 64 << 20
"""Bytes. Files that claim more are damaged: a hole in a file can have any size."""


@dataclass(frozen=True)
class Segment:
    """An open file of rows. index [n] of INDEX; shape: of one feature vector; offset: where the features begin."""

    path: str
    index: NDArray[np.void]
    shape: tuple[int, ...]
    offset: int

    @property
    def row_bytes(self) -> int:
        return 4 * int(np.prod(self.shape))

    @classmethod
    def read(cls, path: str) -> Segment:
        """Raises OSError or UnsafeError if it cannot be read, ValueError if it is damaged."""
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                rows, index_bytes = read_header(file, INDEX, min(size, LARGEST_INDEX))
                index = np.frombuffer(file.read(index_bytes), INDEX, math.prod(rows))
                (count, *shape), feature_bytes = read_header(file, np.dtype(np.float32), size)
            except OSError:
                raise
            except Exception as error:  # a damaged header raises exceptions of many kinds
                raise ValueError(f"{path}: {error}") from error
            offset = file.tell()
            digits = sha256_with(file, offset, size, b"")
            file.seek(max(0, size - DIGITS))
            whole = rows == (count,) and offset + feature_bytes + DIGITS == size and file.read() == digits
        segment = cls(path, index, tuple(shape), offset)
        if not whole or segment.row_bytes > LARGEST_ROW:
            raise ValueError(f"{path} is not whole")
        return segment

    @staticmethod
    def write(file: IO[bytes], rows: Mapping[bytes, FeatureArray]) -> None:
        """Two npy arrays, one after the other: the index, and the features [n, ...].

        Followed by the checksum of everything before the features, which have their own, so that opening is fast.
        """
        index = np.empty(len(rows), INDEX)
        for place, (key, row) in enumerate(rows.items()):
            index[place] = np.frombuffer(key, np.uint8), checksum(key, row.tobytes())
        features = np.stack(list(rows.values()))
        hashing = Hashing(file)
        np.lib.format.write_array(hashing, index, version=(1, 0), allow_pickle=False)
        np.lib.format.write_array_header_1_0(hashing, np.lib.format.header_data_from_array_1_0(features))
        file.write(features.tobytes())
        file.write(hashing.sha256.hexdigest().encode())


def read_header(file: IO[bytes], dtype: np.dtype[np.generic], size: int) -> tuple[tuple[int, ...], int]:
    """Shape of an array of this type, and its bytes in a file of that size. Raises ValueError."""
    np.lib.format.read_magic(file)
    shape, fortran, found = np.lib.format.read_array_header_1_0(file)
    taken = math.prod(shape) * dtype.itemsize
    if found != dtype or fortran or min(shape, default=0) < 0 or taken > size:
        raise ValueError("unexpected content")
    return shape, taken


def checksum(key: bytes, content: bytes) -> int:
    """CRC-32 of a row, against damage, not against forgery."""
    return zlib.crc32(content, zlib.crc32(key))


@dataclass
class Lookup:
    """Index of keys, 16 bytes per key: sorted first 8 bytes of the keys and their positions."""

    segments: list[Segment] = field(default_factory=list)
    prefixes: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    places: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    starts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))

    @classmethod
    def over(cls, segments: list[Segment]) -> Lookup:
        """Build the lookup of all rows of these segments."""
        if not segments:
            return cls()
        prefixes = np.concatenate([np.ascontiguousarray(s.index["key"][:, :8]).view(np.uint64)[:, 0] for s in segments])
        order = np.argsort(prefixes, kind="stable")
        starts = np.cumsum([0, *(len(s.index) for s in segments)])
        return cls(segments, prefixes[order], order, starts)

    def find(self, key: bytes) -> tuple[Segment, int] | None:
        """Segment and row of a key, the newest if there are several."""
        prefix = np.frombuffer(key[:8], np.uint64)[0]
        first, end = (int(np.searchsorted(self.prefixes, prefix, side)) for side in ("left", "right"))
        for place in self.places[first:end][::-1].tolist():
            number = int(np.searchsorted(self.starts, place, side="right")) - 1
            segment, row = self.segments[number], place - int(self.starts[number])
            if segment.index["key"][row].tobytes() == key:
                return segment, row
        return None


class OpenFile:
    """The last file read, kept open, because consecutive rows are usually read in sequence."""

    def __init__(self) -> None:
        self.path = ""
        self.stack = ExitStack()

    def read(self, path: str, offset: int, size: int) -> bytes | None:
        """Part of a file; None if it cannot be read."""
        try:
            if path != self.path:
                self.close()
                self.descriptor = self.stack.enter_context(opened(path)).fileno()
                self.path = path
            return os.pread(self.descriptor, size, offset)
        except (OSError, TlkitError):
            return None

    def close(self) -> None:
        self.stack.close()
        self.path = ""
