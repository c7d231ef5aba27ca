"""Image formats: which are accepted, their signatures, and how a complete file ends."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import BinaryIO

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Accepted formats, by Pillow's names."""

MORE_FORMATS = ("AVIF", "JPEG2000")
"""Formats that --formats can add. No others: some of Pillow's readers start programs."""

SEVERAL_FRAMES = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")
"""Formats with several frames or pages. A second picture in a JPEG is only a preview or depth map."""

Signatures = tuple[tuple[int, bytes, str], ...]
"""(offset, signature bytes, format name)."""

ACCEPTED: Signatures = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WebP"),
    (0, b"BM", "BMP"),
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
)

NOT_ACCEPTED: Signatures = (
    (4, b"ftypavi", "AVIF"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
)

SIGNATURE_BYTES = 16


def image_format(head: bytes, signatures: Signatures = ACCEPTED) -> str | None:
    """The format of a file with these first SIGNATURE_BYTES; None if unknown."""
    return next((name for start, mark, name in signatures if head[start : start + len(mark)] == mark), None)


def has_end(format: str, file: BinaryIO) -> bool:
    """Whether the end of the file is present; False if only decoding can show that."""
    check = ENDINGS.get(format)
    return check is not None and check(file)


def _ends_with(marker: bytes, within: int) -> Callable[[BinaryIO], bool]:
    """A check for `marker` in the last `within` bytes."""

    def check(file: BinaryIO) -> bool:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - within))
        return marker in file.read(within)

    return check


def _riff_is_complete(file: BinaryIO) -> bool:
    """Whether a RIFF container (WebP) has its declared length."""
    file.seek(4)
    declared: int = struct.unpack("<I", file.read(4))[0]
    return file.seek(0, os.SEEK_END) >= declared + 8


# Checks for the end of a file without decoding. Formats that are not listed are decoded.
ENDINGS: dict[str, Callable[[BinaryIO], bool]] = {
    "JPEG": _ends_with(b"\xff\xd9", 64),
    "MPO": _ends_with(b"\xff\xd9", 64),  # a JPEG with another one inside, as cameras write it
    "PNG": _ends_with(b"IEND\xaeB`\x82", 64),
    "WEBP": _riff_is_complete,
    "GIF": _ends_with(b"\x3b", 1),
}
