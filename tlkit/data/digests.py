"""The content digests of images, computed once for each version of a file. Loads no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from io import BufferedReader

from tlkit.data.folder import Sample
from tlkit.data.image_file import ImageError, file_digest, reading
from tlkit.data.ordered_map import map_in_order
from tlkit.files.inputs import is_hollow

HEX_DIGITS = 32
"""Of the SHA-256, as split.json holds it: 128 bits, too many to try."""

computed: dict[str, tuple[tuple[int, ...], bytes]] = {}
"""Path -> version of the file, and its digest. A run needs the digests of its images several times."""


def content_digest(path: str, file: BufferedReader) -> bytes:
    """The SHA-256 of an open image, rewound to its start. Raises ImageError."""
    with reading(path):
        status, hollow = os.fstat(file.fileno()), is_hollow(file.fileno())
    if hollow:
        raise ImageError(path, "image_too_large", f"nearly all of its {status.st_size:,} bytes are holes")
    version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    known = computed.get(path)
    if known is not None and known[0] == version:
        return known[1]
    digest = file_digest(path, file)
    computed[path] = version, digest
    return digest


def hex_digest(sample: Sample) -> str | None:
    """The first HEX_DIGITS of an image's SHA-256; None if it cannot be read."""
    try:
        with sample.open() as file:
            return content_digest(sample.path, file).hex()[:HEX_DIGITS]
    except ImageError:
        return None


def hex_digests(samples: Iterable[Sample], workers: int) -> list[str | None]:
    """The digests of images, in their order."""
    return list(map_in_order(hex_digest, samples, workers=max(1, workers), ahead=64))
