"""Read and write .safetensors files with metadata and a checksum.

A file is the length of a JSON header, the header, and the bytes of the tensors. The checksum is one entry of the
header's metadata; it is computed with zeros in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from torch import Tensor

from tlkit.errors import DataError, UnsafeError, first_line, is_memory
from tlkit.files.checksum import CHECKSUM_KEY, DIGITS, sha256_of, sha256_with
from tlkit.files.inputs import open_input, size_of
from tlkit.files.pickles import is_torch_like, unsafe

FIELD = f'"{CHECKSUM_KEY}":"'.encode()
"""Text before the digits. It cannot occur inside another string of the header, where quotes are escaped."""

BLANK = b"0" * DIGITS
LENGTH_BYTES = 8

LARGEST_HEADER = 3_000_000
"""Bytes. 1,000 tensors and 50,000 classes need two million; parsing takes about twenty times that in memory."""


@dataclass(frozen=True)
class SafetensorsFile:
    """Content of a file. has_valid_checksum: whether it has a valid tlkit checksum."""

    state: dict[str, Tensor]
    metadata: Mapping[str, str]
    has_valid_checksum: bool


def content_with_checksum(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file with these tensors and its checksum."""
    from safetensors.torch import save

    content = bytearray(save(dict(state), {"format": "pt", **metadata, CHECKSUM_KEY: BLANK.decode()}))
    start = content.index(FIELD) + len(FIELD)
    content[start : start + DIGITS] = sha256_of(content)
    return bytes(content)


def is_safetensors(file: BinaryIO) -> bool:
    """Whether a file starts with a plausible header length and a header. Check this before pickles: some header
    lengths look like one."""
    file.seek(0)
    head = file.read(LENGTH_BYTES + 1)
    length = int.from_bytes(head[:LENGTH_BYTES], "little")
    return head[LENGTH_BYTES:] == b"{" and length <= size_of(file) - LENGTH_BYTES


def read_safetensors(path: str) -> SafetensorsFile:
    """Open an untrusted file.

    Raises MissingInputError, DataError (not safetensors, or damaged; files of tlkit are verified byte for byte) or
    UnsafeError (a pickle with another suffix).
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    has_valid_checksum = check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return SafetensorsFile(load_file(path), metadata, has_valid_checksum)
    except (SafetensorError, OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        if is_memory(error):
            raise
        raise DataError(path, f"is not a safetensors file, or is damaged ({first_line(error)[:120]})") from None


def check_header(path: str) -> bool:
    """Whether a file has a checksum, which is then valid. Raises like read_safetensors."""
    with open_input(path) as file:
        head = file.read(LENGTH_BYTES)
        length = int.from_bytes(head, "little")
        if length > size_of(file) - LENGTH_BYTES:
            file.seek(0)
            if is_torch_like(file.read(512)):
                raise as_pickle(path)
            raise DataError(path, "is not a safetensors file, or is damaged")
        if length > LARGEST_HEADER:
            problem = f"has a header of {length:,} bytes; expected at most {LARGEST_HEADER:,}"
            raise DataError(path, problem)
        header = file.read(length)
        found = header.find(FIELD)
        if found < 0:
            return False
        start = LENGTH_BYTES + found + len(FIELD)
        digits = header[found + len(FIELD) :][:DIGITS]
        if sha256_with(file, start, start + DIGITS, BLANK) != digits:
            raise DataError(path, "is damaged, or was changed since tlkit wrote it: its checksum does not match")
        return True


def as_pickle(path: str) -> UnsafeError:
    """The error for a torch file with the suffix .safetensors."""
    return unsafe(path, "it is a torch file or a pickle with another suffix")
