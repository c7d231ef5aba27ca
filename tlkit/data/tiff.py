"""Read the tags of a TIFF: is its pixel layout decoded correctly, is it camera raw, how many pages has it?"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from tlkit.data.image_file import ImageError

MOST_TAGS = 4096
MOST_PAGES = 1000
"""Pages are counted up to here: only the first one is used."""

MOST_VALUES = 1 << 20
SUBFILES = 8
"""Directories besides the first that are searched for camera raw."""

TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
"""Types of tags whose values are integers, as struct writes them."""

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIP_OFFSETS, SAMPLES = 256, 257, 258, 259, 262, 273, 277
STRIP_BYTES, PLANAR, COLOR_MAP, TILE_OFFSETS, TILE_BYTES, SUB_IFDS = 279, 284, 320, 324, 325, 330
INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT, SUBSAMPLING, DEPTH, DNG_VERSION = 332, 338, 339, 530, 32997, 50706
USED = {WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIP_OFFSETS, SAMPLES, STRIP_BYTES, PLANAR, COLOR_MAP,
        TILE_OFFSETS, TILE_BYTES, SUB_IFDS, INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT, SUBSAMPLING, DEPTH,
        DNG_VERSION}  # fmt: skip

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
COLOR_FILTER_ARRAY, LINEAR_RAW = 32803, 34892
COMPRESSIONS = {1: "none", 2: "CCITT", 3: "CCITT", 4: "CCITT", 5: "LZW", 6: "JPEG", 7: "JPEG", 8: "deflate",
                32773: "PackBits", 32946: "deflate", 34925: "LZMA", 50000: "Zstandard"}  # fmt: skip
"""Compressions that the decoder of Pillow's packages reads."""

OTHER_COMPRESSIONS = {32771: "CCITT RLEW", 32809: "ThunderScan", 32909: "PixarLog", 34661: "JBIG", 34676: "SGILog",
                      34712: "JPEG 2000", 34887: "LERC", 34933: "PNG", 34934: "JPEG XR", 50001: "WebP",
                      50002: "JPEG XL", 52546: "JPEG XL"}  # fmt: skip
JPEGS = (6, 7)


@dataclass(frozen=True)
class Directory:
    """The tags of a page, each a tuple of integers; missing if a tag is absent, too long, or no integer."""

    tags: dict[int, tuple[int, ...]]
    is_big_endian: bool = False

    def first(self, tag: int, default: int = 0) -> int:
        values = self.tags.get(tag)
        return values[0] if values else default

    @property
    def is_camera_raw(self) -> bool:
        return self.first(PHOTOMETRIC) in (COLOR_FILTER_ARRAY, LINEAR_RAW) or DNG_VERSION in self.tags

    @property
    def bits(self) -> int:
        """Bits of the first channel."""
        return self.first(BITS, 1)

    @property
    def is_planar(self) -> bool:
        return self.first(PLANAR, 1) == 2 and self.first(SAMPLES, 1) > 1

    @property
    def needs_libtiff(self) -> bool:
        """Whether Pillow's own reader of uncompressed pixels shows others: planes of 16 bits, and YCbCr."""
        return self.is_planar or self.first(PHOTOMETRIC) == YCBCR


class TiffReader:
    """Reads directories of a TIFF or BigTIFF. Raises ValueError if the file is damaged or truncated."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        head = self.read(0, 16)
        self.order = "<" if head[:2] == b"II" else ">"
        self.big = head[2:4] in (b"+\0", b"\0+")
        self.first = self.integer(head[8:16] if self.big else head[4:8])
        self.inline = 8 if self.big else 4
        self.entry = 20 if self.big else 12

    def read(self, offset: int, length: int) -> bytes:
        self.file.seek(offset)
        content = self.file.read(length)
        if len(content) < length:
            raise ValueError("truncated")
        return content

    def integer(self, content: bytes) -> int:
        return int.from_bytes(content, "little" if self.order == "<" else "big")

    def entries(self, offset: int) -> tuple[bytes, int]:
        """The tags of the directory at an offset as bytes, and the offset of the next directory (0: none)."""
        width = 8 if self.big else 2
        count = self.integer(self.read(offset, width))
        if count > MOST_TAGS:
            raise ValueError("too many tags")
        entries = self.read(offset + width, count * self.entry)
        following = self.file.read(self.inline)  # some writers leave it out at the end of the file
        return entries, self.integer(following) if len(following) == self.inline else 0

    def directory(self, offset: int) -> tuple[Directory, int]:
        """The directory at an offset, and the offset of the next one (0: none)."""
        entries, following = self.entries(offset)
        tags: dict[int, tuple[int, ...]] = {}
        for start in range(0, len(entries), self.entry):
            tag, kind = self.integer(entries[start : start + 2]), self.integer(entries[start + 2 : start + 4])
            if tag in USED and kind in TYPES:
                values = self.values(entries[start + 4 : start + self.entry], TYPES[kind])
                if values is not None:
                    tags.setdefault(tag, values)
        return Directory(tags, self.order == ">"), following

    def values(self, entry: bytes, code: str) -> tuple[int, ...] | None:
        """The values of a tag, of which `entry` holds count and place; None if there are too many."""
        count = self.integer(entry[: self.inline])
        layout = f"{self.order}{count}{code}"
        if count > MOST_VALUES:
            return None
        length = struct.calcsize(layout)
        place = entry[self.inline :]
        return struct.unpack(
            layout, place[:length] if length <= self.inline else self.read(self.integer(place), length)
        )

    def offsets(self) -> Iterator[int]:
        """Offsets of the directories of all pages."""
        offset, seen = self.first, set[int]()
        while offset and offset not in seen:
            seen.add(offset)
            yield offset
            offset = self.entries(offset)[1]


def first_page(file: BinaryIO) -> Directory | None:
    """The first page's directory; None if it is damaged."""
    try:
        reader = TiffReader(file)
        return reader.directory(reader.first)[0]
    except (ValueError, struct.error):
        return None


def count_pages(file: BinaryIO) -> int:
    """Number of pages, at most MOST_PAGES; damage after the first page ends the count."""
    pages = 0
    try:
        for pages, _ in enumerate(TiffReader(file).offsets(), start=1):
            if pages == MOST_PAGES:
                break
    except ValueError:
        pass
    return max(1, pages)


def is_camera_raw(file: BinaryIO) -> bool:
    """Whether one of the first directories or their subdirectories holds a camera's raw pixels."""
    try:
        reader = TiffReader(file)
        waiting, seen = [reader.first], set[int]()
        while waiting and len(seen) < SUBFILES:
            offset = waiting.pop(0)
            if not offset or offset in seen:
                continue
            seen.add(offset)
            directory, following = reader.directory(offset)
            if directory.is_camera_raw:
                return True
            waiting += [*directory.tags.get(SUB_IFDS, ()), following]
    except (ValueError, struct.error):
        pass
    return False


def is_truncated(file: BinaryIO, page: Directory) -> bool:
    """Whether the pixels of a page should reach beyond the end of the file."""
    size = file.seek(0, os.SEEK_END)
    starts = page.tags.get(STRIP_OFFSETS) or page.tags.get(TILE_OFFSETS) or ()
    lengths = page.tags.get(STRIP_BYTES) or page.tags.get(TILE_BYTES) or ()
    return any(start + length > size for start, length in zip(starts, lengths, strict=False))


def check_tiff(path: str, file: BinaryIO) -> Directory:
    """The first page's directory. Raises ImageError for a layout that is not decoded correctly, and for camera raw."""
    page = first_page(file)
    if page is None or not (page.first(WIDTH) and page.first(HEIGHT)):
        raise ImageError(path, "not_an_image", "starts like TIFF, but its header is damaged or truncated")
    if is_camera_raw(file):
        advice = "; develop it first, for example to JPEG or TIFF"
        raise ImageError(path, "unsupported_format", f"camera raw (DNG, NEF, ARW and others) is not supported{advice}")
    if problem := unsupported_layout(page):
        raise ImageError(path, "unsupported_mode", f"TIFF with {problem} is not supported")
    return page


def unsupported_layout(page: Directory) -> str:
    """The property of a page that Pillow does not read correctly; empty if there is none."""
    compression, photometric = page.first(COMPRESSION, 1), page.first(PHOTOMETRIC)
    extra = page.tags.get(EXTRA_SAMPLES, ())
    lengths = page.tags.get(STRIP_BYTES) or page.tags.get(TILE_BYTES) or ()
    if compression not in COMPRESSIONS:
        return f"{OTHER_COMPRESSIONS.get(compression, f'unknown ({compression})')} compression"
    if compression in JPEGS and page.bits != 8:
        return f"JPEG compression of {page.bits} bits"
    samples = page.first(SAMPLES, 1)
    if any(len(set(page.tags.get(tag, ())[:samples])) > 1 for tag in (BITS, SAMPLE_FORMAT)):
        return "channels of different kinds"
    if page.first(SAMPLE_FORMAT, 1) == 2 and page.bits == 8:
        return "signed 8-bit pixels"
    if page.first(DEPTH, 1) > 1:
        return "several layers (a volume)"
    if photometric == CMYK and page.first(INK_SET, 1) != 1:
        return "inks other than CMYK"
    if 0 in lengths:
        return "missing (sparse) parts"
    if page.is_planar and compression not in JPEGS:
        fits = (page.bits == 8 and photometric in (RGB, CMYK)) or (page.bits == 16 and photometric == RGB)
        if not fits or 1 in extra:
            return "these channels in separate planes"
    return ""
