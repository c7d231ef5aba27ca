"""The formats of image files: which are read, by what marks they are told, and how their ends look."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import BinaryIO

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""What is read, by Pillow's names."""


MORE_FORMATS = ("AVIF", "JPEG2000")
"""What may be read too where it is asked for. No other: some of Pillow's readers start programs."""


SEVERAL_FRAMES = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")
"""Formats of animations and of several pages. The second picture in a camera's JPEG is a preview or a depth map."""


Signatures = tuple[tuple[int, bytes, str], ...]
"""Where a format's mark stands in a file, the mark, and the format's name."""


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
    """The format that a file's first SIGNATURE_BYTES are the mark of."""
    return next((name for start, mark, name in signatures if head[start : start + len(mark)] == mark), None)


def has_its_end(format: str, file: BinaryIO) -> bool:
    """Whether a file's end can be seen to be there; False where only decoding can tell."""
    check = ENDINGS.get(format)
    return check is not None and check(file)


def _ends_with(marker: bytes, within: int) -> Callable[[BinaryIO], bool]:
    """A check that `marker` stands in the last `within` bytes."""

    def check(file: BinaryIO) -> bool:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - within))
        return marker in file.read(within)

    return check


def _riff_is_whole(file: BinaryIO) -> bool:
    """A check that a RIFF container (WebP) is as long as it says."""
    file.seek(4)
    claimed: int = struct.unpack("<I", file.read(4))[0]
    return file.seek(0, os.SEEK_END) >= claimed + 8


# How to see, without decoding, that a file's end is there. A format that is not listed is decoded.
ENDINGS: dict[str, Callable[[BinaryIO], bool]] = {
    "JPEG": _ends_with(b"\xff\xd9", 64),
    "MPO": _ends_with(b"\xff\xd9", 64),  # a JPEG that holds another one, as cameras write it
    "PNG": _ends_with(b"IEND\xaeB`\x82", 64),
    "WEBP": _riff_is_whole,
    "GIF": _ends_with(b"\x3b", 1),
}
