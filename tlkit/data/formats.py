"""Accepted image formats; the kind of a file by its first bytes; the end of a complete file."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Accepted formats, by Pillow's names. PPM includes PGM and PBM."""

MORE_FORMATS = ("AVIF", "JPEG2000")
"""Formats that --formats can add. No others: some of Pillow's readers start programs."""

HEIF = "HEIF"
"""Read if pillow-heif is installed, which adds this format to Pillow."""

SEVERAL_FRAMES = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")
"""Formats with several frames or pages. A second picture in a JPEG or HEIC is only a preview or depth map."""

HEAD_BYTES = 512
"""The kind of a file shows in its first bytes."""


@dataclass(frozen=True)
class Kind:
    """A kind of file. name: as users know it. pillow: Pillow's name of an image format. is_image: of any format.

    advice: what to do about such a file.
    """

    name: str
    pillow: str = ""
    is_image: bool = True
    advice: str = ""


def other(name: str, advice: str = "") -> Kind:
    """Something that is no image."""
    return Kind(name, is_image=False, advice=advice)


RAW_ADVICE = "; develop it first, for example to JPEG or TIFF"
TIFF = Kind("TIFF", "TIFF")
JPEG_2000 = Kind("JPEG 2000", "JPEG2000")
OFFICE = other("an Office document")
VIDEO = other("a video")

SIGNATURES: tuple[tuple[int, bytes, Kind], ...] = (
    (0, b"\xff\xd8\xff\xf7", Kind("JPEG-LS")),
    (0, b"\xff\xd8\xff", Kind("JPEG", "JPEG")),
    (0, b"\x89PNG\r\n\x1a\n", Kind("PNG", "PNG")),
    (8, b"WEBP", Kind("WebP", "WEBP")),
    (0, b"BM", Kind("BMP", "BMP")),
    (0, b"GIF8", Kind("GIF", "GIF")),
    (8, b"CR\x02", Kind("Canon CR2 (camera raw)", advice=RAW_ADVICE)),
    (6, b"HEAPCCDR", Kind("Canon CRW (camera raw)", advice=RAW_ADVICE)),
    (8, b"IIII", Kind("Phase One IIQ (camera raw)", advice=RAW_ADVICE)),
    (8, b"MMMM", Kind("Phase One IIQ (camera raw)", advice=RAW_ADVICE)),
    (0, b"II*\0", TIFF),
    (0, b"MM\0*", TIFF),
    (0, b"II+\0", TIFF),
    (0, b"MM\0+", TIFF),
    (0, b"IIR", Kind("Olympus ORF (camera raw)", advice=RAW_ADVICE)),
    (0, b"MMOR", Kind("Olympus ORF (camera raw)", advice=RAW_ADVICE)),
    (0, b"IIU\0", Kind("Panasonic RW2 (camera raw)", advice=RAW_ADVICE)),
    (0, b"FUJIFILMCCD-RAW", Kind("Fujifilm RAF (camera raw)", advice=RAW_ADVICE)),
    (0, b"\0MRM", Kind("Minolta MRW (camera raw)", advice=RAW_ADVICE)),
    (0, b"FOVb", Kind("Sigma X3F (camera raw)", advice=RAW_ADVICE)),
    (0, b"II\xbc\x01", Kind("JPEG XR")),
    (0, b"\0\0\0\x0cjP  ", JPEG_2000),
    (0, b"\xff\x4f\xff\x51", JPEG_2000),
    (0, b"\0\0\0\x0cJXL ", Kind("JPEG XL")),
    (0, b"\xff\x0a", Kind("JPEG XL")),
    (0, b"8BPS", Kind("Photoshop")),
    (0, b"gimp xcf", Kind("GIMP XCF")),
    (0, b"P7\n", Kind("PAM")),
    (0, b"PF\n", Kind("PFM")),
    (0, b"Pf\n", Kind("PFM")),
    (0, b"qoif", Kind("QOI")),
    (0, b"DDS ", Kind("DDS")),
    (0, b"v/1\x01", Kind("OpenEXR")),
    (0, b"#?RADIANCE", Kind("Radiance HDR")),
    (0, b"SIMPLE  =", Kind("FITS")),
    (0, b"\0\0\1\0", Kind("ICO")),
    (0, b"icns", Kind("ICNS")),
    (0, b"BPG\xfb", Kind("BPG")),
    (0, b"FLIF", Kind("FLIF")),
    (0, b"AT&TFORM", Kind("DjVu")),
    (0, b"\x8aMNG", Kind("MNG")),
    (128, b"DICM", Kind("DICOM")),
    (0, b"version https://git-lfs", other("a pointer of Git LFS", "; to get the image, run git lfs pull")),
    (0, b"%PDF-", other("a PDF document")),
    (0, b"%!PS", other("a PostScript document")),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", OFFICE),
    (0, b"{\\rtf", OFFICE),
    (0, b"\x1f\x8b", other("a gzip archive", "; unpack it first")),
    (0, b"BZh", other("a bzip2 archive", "; unpack it first")),
    (0, b"\xfd7zXZ\0", other("an xz archive", "; unpack it first")),
    (0, b"7z\xbc\xaf", other("a 7-Zip archive", "; unpack it first")),
    (0, b"Rar!", other("a RAR archive", "; unpack it first")),
    (257, b"ustar", other("a tar archive", "; unpack it first")),
    (8, b"AVI ", VIDEO),
    (8, b"WAVE", other("a sound recording")),
    (0, b"ID3", other("a sound recording")),
    (0, b"\x1a\x45\xdf\xa3", VIDEO),
    (0, b"\0\0\1\xba", VIDEO),
    (0, b"\x93NUMPY", other("a NumPy array")),
    (0, b"\x89HDF", other("an HDF5 file")),
    (0, b"SQLite format 3", other("an SQLite database")),
    (0, b"\x7fELF", other("a program")),
)
"""(offset, bytes, kind), the first match counts."""

BRANDS: tuple[tuple[tuple[bytes, ...], Kind], ...] = (
    ((b"crx ",), Kind("Canon CR3 (camera raw)", advice=RAW_ADVICE)),
    ((b"avif", b"avis"), Kind("AVIF", "AVIF")),
    ((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), Kind("HEIC", HEIF)),
    ((b"mif1", b"msf1", b"mif2", b"mif3", b"miaf", b"avci", b"avcs", b"vvic", b"j2ki", b"jpeg"), Kind("HEIF", HEIF)),
)
"""Brands of the ISO base media format, of which a file names several; everything else in it is a video."""

ZIPS = ((b"word/", OFFICE), (b"xl/", OFFICE), (b"ppt/", OFFICE), (b"[Content_Types].xml", OFFICE),
        (b"application/vnd.oasis", OFFICE), (b"application/epub", other("an e-book")))  # fmt: skip

MOST_BOXES = 1000
NETPBM = re.compile(rb"P[1-6]\s+(#[^\n]*\n\s*)*[0-9]")
HTML_PAGE = other("an HTML page")
MARKUP = (
    (b"<svg", other("an SVG drawing")),
    (b"<html", HTML_PAGE),
    (b"<!doctype html", HTML_PAGE),
    (b"<head", HTML_PAGE),
    (b"<?xml", other("an XML file")),
)


def kind_of(head: bytes) -> Kind | None:
    """The kind of a file with these first HEAD_BYTES; None if unknown."""
    if head[4:8] == b"ftyp":
        brands = [head[8:12], *(head[k : k + 4] for k in range(16, min(int.from_bytes(head[:4]), len(head)), 4))]
        return next((kind for names, kind in BRANDS if set(names) & set(brands)), VIDEO)
    for start, mark, kind in SIGNATURES:
        if head.startswith(mark, start):
            return kind
    if NETPBM.match(head):
        return Kind("PPM", "PPM")
    if head.startswith(b"PK\3\4"):
        return next((kind for mark, kind in ZIPS if mark in head), other("a zip archive", "; unpack it first"))
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<"):
        return next((kind for mark, kind in MARKUP if mark in text), None)
    return other("a file of zero bytes only: a copy or download that failed") if head and not any(head) else None


def looks_like_image(head: bytes) -> bool:
    """Whether a file with these first HEAD_BYTES is an image, of an accepted format or another."""
    kind = kind_of(head)
    return kind is not None and kind.is_image


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


def _boxes_are_complete(file: BinaryIO) -> bool:
    """Whether the boxes of an ISO base media file (HEIF, AVIF) end where the file ends."""
    size, place = file.seek(0, os.SEEK_END), 0
    for _ in range(MOST_BOXES):
        file.seek(place)
        head = file.read(16)
        length = int.from_bytes(head[:4])
        length = int.from_bytes(head[8:16]) if length == 1 else length or size - place
        place += max(8, length)
        if len(head) < 8 or place >= size:
            return place == size
    return False


# Checks for the end of a file without decoding. Formats that are not listed are decoded.
ENDINGS: dict[str, Callable[[BinaryIO], bool]] = {
    "JPEG": _ends_with(b"\xff\xd9", 64),
    "MPO": _ends_with(b"\xff\xd9", 64),  # a JPEG with another one inside, as cameras write it
    "PNG": _ends_with(b"IEND\xaeB`\x82", 64),
    "WEBP": _riff_is_complete,
    "GIF": _ends_with(b"\x3b", 1),
    HEIF: _boxes_are_complete,
    "AVIF": _boxes_are_complete,
}
