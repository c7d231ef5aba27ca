"""A .safetensors file: its tensors, what it says about itself, and its seal.

The file is a JSON header, its length before it, and then the bytes of the tensors. The seal is one entry of the
header's metadata; what is hashed is the file with zeros in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from torch import Tensor

from tlkit.errors import DataError, UnsafeError, first_line, is_memory
from tlkit.files.inputs import open_input, size_of
from tlkit.files.pickles import is_torch_like, unsafe
from tlkit.files.seal import CHECKSUM_KEY, DIGITS, sha256_of, sha256_with

FIELD = f'"{CHECKSUM_KEY}":"'.encode()
"""Before the digits. Inside of any other text in the header its quotes would be written in another way."""


BLANK = b"0" * DIGITS


LENGTH_BYTES = 8


LARGEST_HEADER = 3_000_000
"""Bytes. A thousand tensors and fifty thousand classes take two million. What reads it takes some twenty times that."""


@dataclass(frozen=True)
class SafetensorsFile:
    """What a file holds. sealed: whether tlkit wrote it, and it is as it was written."""

    state: dict[str, Tensor]
    metadata: Mapping[str, str]
    sealed: bool


def content_with_checksum(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A file of these tensors, with its seal."""
    from safetensors.torch import save

    content = bytearray(save(dict(state), {"format": "pt", **metadata, CHECKSUM_KEY: BLANK.decode()}))
    start = content.index(FIELD) + len(FIELD)
    content[start : start + DIGITS] = sha256_of(content)
    return bytes(content)


def is_safetensors(file: BinaryIO) -> bool:
    """Whether a file begins as one: with a header, and before it a length that the file has. Some lengths look like a
    pickle, so this is asked before anything else."""
    file.seek(0)
    head = file.read(LENGTH_BYTES + 1)
    length = int.from_bytes(head[:LENGTH_BYTES], "little")
    return head[LENGTH_BYTES:] == b"{" and length <= size_of(file) - LENGTH_BYTES


def read_safetensors(path: str) -> SafetensorsFile:
    """Open a file of anybody's.

    Raises MissingInputError, DataError (no such file, or damaged; one of ours is checked byte for byte) or UnsafeError
    (a pickle under another name).
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    sealed = check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return SafetensorsFile(load_file(path), metadata, sealed)
    except (SafetensorError, OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        if is_memory(error):
            raise
        raise DataError(path, f"is not a safetensors file, or is damaged ({first_line(error)[:120]})") from None


def check_header(path: str) -> bool:
    """Whether a file has a seal, which then is right. Raises what read_safetensors raises."""
    with open_input(path) as file:
        head = file.read(LENGTH_BYTES)
        length = int.from_bytes(head, "little")
        if length > size_of(file) - LENGTH_BYTES:
            file.seek(0)
            if is_torch_like(file.read(512)):
                raise as_pickle(path)
            raise DataError(path, "is not a safetensors file, or is damaged")
        if length > LARGEST_HEADER:
            problem = f"has a header of {length:,} bytes; the largest that is read has {LARGEST_HEADER:,}"
            raise DataError(path, problem)
        header = file.read(length)
        found = header.find(FIELD)
        if found < 0:
            return False
        start = LENGTH_BYTES + found + len(FIELD)
        digits = header[found + len(FIELD) :][:DIGITS]
        if sha256_with(file, start, start + DIGITS, BLANK) != digits:
            raise DataError(path, "is damaged, or was changed since tlkit wrote it: it does not match its seal")
        return True


def as_pickle(path: str) -> UnsafeError:
    """The refusal of a torch file under another name."""
    return unsafe(path, "it is a torch file or a pickle under another name")
