"""Check the header of a JPEG for kinds that the decoder cannot read, or that take too long."""

from __future__ import annotations

import re
from typing import BinaryIO

from tlkit.data.image_file import ImageError

SOI_BYTES = 2
MOST_SCANS = 100
"""Encoders write about ten passes over the pixels. A small file can ask for thousands, each of which takes time."""

MOST_SEGMENTS = 10_000
LONGEST_GAP = 1 << 16
"""Bytes between two segments, which decoders skip."""

CHUNK = 1 << 20
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))
FRAMES = {
    0xC0: "", 0xC1: "", 0xC2: "", 0xC9: "", 0xCA: "",
    0xC3: "lossless", 0xCB: "lossless", 0xC5: "hierarchical", 0xC6: "hierarchical", 0xC7: "hierarchical",
    0xCD: "hierarchical", 0xCE: "hierarchical", 0xCF: "hierarchical", 0xF7: "JPEG-LS",
}  # fmt: skip
"""Markers of the frame header, and the process of those that the decoder cannot read."""

PROGRESSIVE = (0xC2, 0xCA)


def check_jpeg(path: str, file: BinaryIO) -> None:
    """Raises ImageError for pixels of another depth or process, and for more than MOST_SCANS scans.

    A header that is damaged is left to the decoder.
    """
    file.seek(SOI_BYTES)
    components, progressive = 0, False
    for _ in range(MOST_SEGMENTS):
        marker = next_marker(file)
        if marker is None or marker == END_OF_IMAGE:
            return
        if marker in WITHOUT_LENGTH:
            continue
        length = int.from_bytes(file.read(2))
        if marker == START_OF_SCAN:
            scanned = file.read(1)
            if progressive or (scanned and scanned[0] < components):
                count_scans(path, file)
            return
        if marker in FRAMES:
            frame = file.read(6)
            if len(frame) < 6:
                return
            components, progressive = frame[5], marker in PROGRESSIVE
            require_readable(path, FRAMES[marker], frame[0], components)
            length -= 6
        file.seek(max(0, length - 2), 1)
    raise ImageError(path, "image_corrupt", f"the header has more than {MOST_SEGMENTS:,} segments")


def require_readable(path: str, process: str, bits: int, components: int) -> None:
    """Raises ImageError for a frame that the decoder cannot read."""
    if process:
        raise ImageError(path, "unsupported_mode", f"{process} JPEG is not supported; expected baseline or progressive")
    if bits != 8:
        raise ImageError(path, "unsupported_mode", f"JPEG with {bits} bits per channel is not supported; expected 8")
    if components not in (1, 3, 4):
        raise ImageError(path, "unsupported_mode", f"JPEG with {components} channels is not supported")


def next_marker(file: BinaryIO) -> int | None:
    """The next marker, after bytes that decoders skip; None at the end of the file or if there is none."""
    for _ in range(LONGEST_GAP):
        byte = file.read(1)
        if not byte:
            return None
        if byte == b"\xff":
            while (code := file.read(1)) == b"\xff":
                pass
            if code != b"\0":
                return code[0] if code else None
    return None


def count_scans(path: str, file: BinaryIO) -> None:
    """Raises ImageError if more than MOST_SCANS scans follow."""
    scans, rest = 1, b""
    while chunk := file.read(CHUNK):
        for found in re.finditer(b"\xff[\xd9\xda]", rest + chunk):
            if found[0][1] == END_OF_IMAGE:
                return
            scans += 1
            if scans > MOST_SCANS:
                raise ImageError(path, "unsupported_mode", f"JPEG with more than {MOST_SCANS} scans is not supported")
        rest = chunk[-1:]
