"""The SHA-256 of a whole file, kept in the file itself: any flipped bit and any cut is noticed.

A seal lies where its format has room for words that others pass over: in the comment of a zip archive, in the metadata
of a safetensors or ONNX file. It is the hash of the file as it was before its seal was put in. It guards against
damage, not against people: who changes a file can seal it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import IO, Any, BinaryIO

from tlkit.errors import DataError
from tlkit.files.inputs import size_of

DIGITS = 64
"""Of a SHA-256, in hexadecimal."""


CHECKSUM_KEY = "tlkit_sha256"
"""Of the seal, where a file has metadata."""


MARK = b"tlkit-sha256:"
"""Before the seal, where a file has a comment."""


END_OF_ARCHIVE = b"PK\x05\x06"


END_BYTES = 22
"""What a zip archive ends with: a record of that size, whose last two bytes are the length of the comment after it."""


NO_COMMENT = b"\0\0"


BLOCK = 1 << 20


def comment_of(digits: bytes) -> bytes:
    """The end of a sealed archive: the length of its comment, and the comment."""
    comment = MARK + digits
    return len(comment).to_bytes(2, "little") + comment


COMMENT_BYTES = len(comment_of(bytes(DIGITS)))


class Hashing:
    """A file to write to in one go, and the SHA-256 of what went through."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()

    def write(self, content: Any) -> int:
        self.sha256.update(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


class Sealing(Hashing):
    """As Hashing, for an archive: its last bytes are held back, for they are to be others."""

    held = b""

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        self.sha256.update(view)
        body, tail = view[: -len(NO_COMMENT)], self.held + bytes(view[-len(NO_COMMENT) :])
        self.file.write(tail[: -len(NO_COMMENT)])
        self.file.write(body)
        self.held = tail[-len(NO_COMMENT) :]
        return view.nbytes

    def seal(self) -> None:
        """Write the comment in the place of the missing one."""
        self.file.write(comment_of(self.sha256.hexdigest().encode()))


def write_checksummed_archive(file: IO[bytes], write: Callable[[Any], object]) -> None:
    """Let `write` write a zip archive without a comment, and seal it."""
    sealing = Sealing(file)
    write(sealing)
    sealing.seal()


def check_archive_checksum(path: str, file: BinaryIO) -> bool:
    """Whether a zip archive has a seal, which then is right.

    Raises DataError for a seal that does not match, or an archive that ends in any other way than torch's and ours do.
    """
    size = size_of(file)
    if ends_as_archive(file, size, NO_COMMENT):
        return False
    digits = sha256_with(file, size - COMMENT_BYTES, size, NO_COMMENT)
    if not ends_as_archive(file, size, comment_of(digits)):
        raise DataError(path, "is damaged, cut short, or was changed since it was written: it does not match its seal")
    return True


def checksum_in_archive(file: BinaryIO) -> str | None:
    """The seal that a zip archive ends with, right or not; None if it has none."""
    file.seek(max(0, size_of(file) - COMMENT_BYTES))
    end = file.read()
    digits = end[-DIGITS:]
    return digits.decode("ascii", "replace") if end == comment_of(digits) else None


def ends_as_archive(file: BinaryIO, size: int, comment: bytes) -> bool:
    """Whether the file ends with the last record of a zip archive and this comment, its length before it."""
    record = END_BYTES - len(NO_COMMENT)
    if size < record + len(comment):
        return False
    file.seek(size - record - len(comment))
    return file.read(len(END_OF_ARCHIVE)) == END_OF_ARCHIVE and file.read()[record - len(END_OF_ARCHIVE) :] == comment


def sha256_of(content: bytes | bytearray | memoryview) -> bytes:
    """The SHA-256 of bytes: DIGITS hexadecimal digits."""
    return hashlib.sha256(content).hexdigest().encode()


def sha256_with(file: BinaryIO, start: int, stop: int, blank: bytes) -> bytes:
    """The SHA-256 of a file with `blank` in the place of its bytes from start to stop: DIGITS hexadecimal digits."""
    sha256 = hashlib.sha256()
    buffer = memoryview(bytearray(BLOCK))
    file.seek(0)
    left = max(0, start)
    while left and (read := file.readinto(buffer[:left])):  # type: ignore[attr-defined]
        sha256.update(buffer[:read])
        left -= read
    sha256.update(blank)
    file.seek(max(0, stop))
    while read := file.readinto(buffer):  # type: ignore[attr-defined]
        sha256.update(buffer[:read])
    return sha256.hexdigest().encode()
