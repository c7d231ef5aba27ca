"""Checksums embedded in files: SHA-256 of the whole file, so that every flipped bit and truncation is detected.

The checksum is stored where other readers ignore it: in the comment of a zip archive, or in the metadata of a
safetensors or ONNX file. It is the hash of the file without it. It protects against damage, not against attackers,
who can recompute it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from tlkit.errors import DataError
from tlkit.files.inputs import open_input, size_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

DIGITS = 64
"""Hexadecimal digits of a SHA-256."""

CHECKSUM_KEY = "tlkit_sha256"
"""Key of the checksum in file metadata."""

MARK = b"tlkit-sha256:"
"""Prefix of the checksum in a zip comment."""

END_OF_ARCHIVE = b"PK\x05\x06"

END_BYTES = 22
"""Size of the end record of a zip archive; its last two bytes are the length of the comment that follows."""

NO_COMMENT = b"\0\0"
BLOCK = 1 << 20


def comment_of(digits: bytes) -> bytes:
    """Comment length and comment that end an archive with a checksum."""
    comment = MARK + digits
    return len(comment).to_bytes(2, "little") + comment


COMMENT_BYTES = len(comment_of(bytes(DIGITS)))


class Hashing:
    """Writes through to a file and computes the SHA-256 of the content."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()

    def write(self, content: Buffer) -> int:
        self.sha256.update(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


class ArchiveHashing(Hashing):
    """Like Hashing, for an archive: holds back the last bytes, the empty comment, to replace them."""

    held = b""

    def write(self, content: Buffer) -> int:
        view = memoryview(content).cast("B")
        self.sha256.update(view)
        body, tail = view[: -len(NO_COMMENT)], self.held + bytes(view[-len(NO_COMMENT) :])
        self.file.write(tail[: -len(NO_COMMENT)])
        self.file.write(body)
        self.held = tail[-len(NO_COMMENT) :]
        return view.nbytes

    def write_checksum(self) -> None:
        """Write the comment with the checksum instead of the empty one."""
        self.file.write(comment_of(self.sha256.hexdigest().encode()))


def write_checksummed_archive(file: IO[bytes], write: Callable[[Any], object]) -> None:
    """Let `write` write a zip archive without a comment, and append the checksum as its comment."""
    hashing = ArchiveHashing(file)
    write(hashing)
    hashing.write_checksum()


def check_archive_checksum(path: str, file: BinaryIO) -> bool:
    """Whether a zip archive has a checksum, which is then valid.

    Raises DataError if the checksum does not match, or if the archive ends unlike those of torch and tlkit.
    """
    size = size_of(file)
    if ends_as_archive(file, size, NO_COMMENT):
        return False
    digits = sha256_with(file, size - COMMENT_BYTES, size, NO_COMMENT)
    if not ends_as_archive(file, size, comment_of(digits)):
        raise DataError(path, "is damaged, truncated, or was changed since it was written: its checksum does not match")
    return True


def checksum_in_archive(file: BinaryIO) -> str | None:
    """The checksum at the end of a zip archive, not verified; None if it has none."""
    file.seek(max(0, size_of(file) - COMMENT_BYTES))
    end = file.read()
    digits = end[-DIGITS:]
    return digits.decode("ascii", "replace") if end == comment_of(digits) else None


def ends_as_archive(file: BinaryIO, size: int, comment: bytes) -> bool:
    """Whether the file ends with the end record of a zip archive and this comment (with its length)."""
    record = END_BYTES - len(NO_COMMENT)
    if size < record + len(comment):
        return False
    file.seek(size - record - len(comment))
    return file.read(len(END_OF_ARCHIVE)) == END_OF_ARCHIVE and file.read()[record - len(END_OF_ARCHIVE) :] == comment


def sha256_of(content: bytes | bytearray | memoryview) -> bytes:
    """The SHA-256 of bytes: DIGITS hexadecimal digits."""
    return hashlib.sha256(content).hexdigest().encode()


def sha256_of_file(path: str) -> str:
    """The SHA-256 of a file in hexadecimal digits. Raises MissingInputError or DataError."""
    with open_input(path) as file:
        return sha256_with(file, 0, 0, b"").decode()


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
