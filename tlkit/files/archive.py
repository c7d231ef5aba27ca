"""A zip archive from outside, such as .pt and .pt2 files are, judged before anything in it is opened."""

from __future__ import annotations

import zipfile
import zlib
from typing import BinaryIO

from tlkit.errors import DataError, first_line, is_memory
from tlkit.files.seal import check_archive_checksum

MAGIC = b"PK\x03\x04"


LOCAL_HEADER = 30
"""Bytes before the name of a file in an archive; the last four are the lengths of the name and of what follows it."""


DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, NotImplementedError)
"""What Python's zipfile raises for archives that it cannot read."""


def is_archive(file: BinaryIO) -> bool:
    """Whether a file begins as an archive."""
    file.seek(0)
    return file.read(len(MAGIC)) == MAGIC


def check_archive(path: str, file: BinaryIO) -> bool:
    """Whether an archive has a seal of tlkit's.

    Raises DataError if it is damaged (by its seal, or by the checksums of its files) or claims more than it holds.
    """
    sealed = check_archive_checksum(path, file)
    try:
        with zipfile.ZipFile(file) as archive:
            require_no_more_than_its_bytes(archive, file)
            damaged = None if sealed else archive.testzip()
    except DAMAGED as error:
        if is_memory(error):
            raise
        raise DataError(path, f"is damaged ({first_line(error)[:120]})") from None
    if damaged is not None:
        raise DataError(path, f"is damaged: {damaged} in it does not match its checksum")
    return sealed


def require_no_more_than_its_bytes(archive: zipfile.ZipFile, file: BinaryIO) -> None:
    """Raises ValueError unless each file lies in the archive as it is, once, in bytes of its own.

    Otherwise a small archive could grow without end when it is read. torch compresses nothing.
    """
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in entries):
        raise ValueError("it is compressed")
    if len({entry.filename for entry in entries}) != len(entries):
        raise ValueError("two files in it have one name")
    end = 0
    for entry in entries:
        if entry.header_offset < end or (end == 0 and entry.header_offset != 0):
            raise ValueError("files in it overlap, or something lies before them")
        file.seek(entry.header_offset + LOCAL_HEADER - 4)
        lengths = file.read(4)
        end = entry.header_offset + LOCAL_HEADER + entry.file_size
        end += int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
    if end > archive.start_dir:
        raise ValueError("files in it overlap its table of contents")
