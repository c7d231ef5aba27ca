"""Check untrusted zip archives (.pt and .pt2 files) before anything in them is opened."""

from __future__ import annotations

import zipfile
import zlib
from typing import BinaryIO

from tlkit.errors import DataError, first_line, is_memory
from tlkit.files.checksum import check_archive_checksum

MAGIC = b"PK\x03\x04"

LOCAL_HEADER = 30
"""Bytes of a local file header before the name; the last four are the lengths of name and extra field."""

DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, NotImplementedError)
"""Exceptions that zipfile raises for unreadable archives."""


def is_archive(file: BinaryIO) -> bool:
    """Whether a file starts like a zip archive."""
    file.seek(0)
    return file.read(len(MAGIC)) == MAGIC


def check_archive(path: str, file: BinaryIO) -> bool:
    """Whether an archive has a valid tlkit checksum.

    Raises DataError if it is damaged (by that checksum, or the CRCs of its files) or is a zip bomb.
    """
    has_valid_checksum = check_archive_checksum(path, file)
    try:
        with zipfile.ZipFile(file) as archive:
            require_plain_entries(archive, file)
            damaged = None if has_valid_checksum else archive.testzip()
    except DAMAGED as error:
        if is_memory(error):
            raise
        raise DataError(path, f"is damaged ({first_line(error)[:120]})") from None
    if damaged is not None:
        raise DataError(path, f"is damaged: {damaged} in it does not match its checksum")
    return has_valid_checksum


def require_plain_entries(archive: zipfile.ZipFile, file: BinaryIO) -> None:
    """Raises ValueError unless every file is stored uncompressed, once, without overlaps.

    Otherwise a small archive could expand without bound. torch never compresses.
    """
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in entries):
        raise ValueError("it is compressed")
    if len({entry.filename for entry in entries}) != len(entries):
        raise ValueError("two files in it have the same name")
    end = 0
    for entry in entries:
        if entry.header_offset < end or (end == 0 and entry.header_offset != 0):
            raise ValueError("files in it overlap, or do not start at the beginning")
        file.seek(entry.header_offset + LOCAL_HEADER - 4)
        lengths = file.read(4)
        end = entry.header_offset + LOCAL_HEADER + entry.file_size
        end += int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
    if end > archive.start_dir:
        raise ValueError("files in it overlap its table of contents")
