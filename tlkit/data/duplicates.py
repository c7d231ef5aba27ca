"""Find identical files without reading most of them."""

from __future__ import annotations

import os
import zlib
from io import BufferedReader

from tlkit.data.folder import Sample
from tlkit.data.image_file import ImageError, file_digest
from tlkit.data.ordered_map import map_in_order

END_BYTES = 4096


def quick_hash(file: BufferedReader) -> int:
    """Hash of length and last bytes: equal for identical files, and rarely equal for others."""
    size = os.fstat(file.fileno()).st_size
    return size << 32 | zlib.crc32(os.pread(file.fileno(), END_BYTES, max(0, size - END_BYTES)))


class DuplicateFinder:
    """Collects samples and finds groups of identical files."""

    def __init__(self) -> None:
        self._first: dict[int, Sample] = {}
        self._alike: dict[int, list[Sample]] = {}

    def add(self, sample: Sample, quick: int) -> None:
        first = self._first.setdefault(quick, sample)
        if first is not sample:
            self._alike.setdefault(quick, [first]).append(sample)

    def groups(self, workers: int) -> list[list[Sample]]:
        """Groups of identical files: SHA-256 of the files with equal quick hashes."""
        alike = [sample for samples in self._alike.values() for sample in samples]
        same: dict[bytes, list[Sample]] = {}
        digests = map_in_order(digest_of, alike, workers=workers, ahead=64)
        for sample, digest in zip(alike, digests, strict=True):
            if digest is not None:
                same.setdefault(digest, []).append(sample)
        return [samples for samples in same.values() if len(samples) > 1]


def digest_of(sample: Sample) -> bytes | None:
    """The SHA-256 of a file; None if it cannot be read (reported where the image is needed)."""
    try:
        with sample.open() as file:
            return file_digest(sample.path, file)
    except ImageError:
        return None
