"""Read .onnx files written by tlkit: description, checksum, and refusal of external data.

ONNX is one protobuf message. Its fields are parsed here without any library, so that a file is checked before a
runtime, which would follow references to other files, opens it. Loads neither torch nor onnx.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tlkit.errors import DataError, TlkitError, UnsafeError
from tlkit.files.checksum import CHECKSUM_KEY, sha256_of
from tlkit.files.description import DESCRIPTION_KEY, parse_description
from tlkit.files.inputs import open_input

MODEL_CHECKSUM_KEY = "tlkit_model_sha256"
"""Metadata entry of a run's model.onnx: the checksum of the model.pt that it was made from."""

METADATA, KEY, VALUE = 14, 1, 2
DATA_LOCATION = 14
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5

PARTS: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
"""Messages that can contain tensors, and their fields to follow (a test compares with the onnx package)."""


@dataclass(frozen=True)
class OnnxFile:
    """A verified file written by tlkit. description: plain JSON types. metadata: all entries."""

    content: bytes
    description: Mapping[str, Any]
    metadata: Mapping[str, str]


def checksum_of(content: bytes | memoryview) -> bytes:
    """The SHA-256 of a file as a metadata entry to append to it: the file stays valid ONNX."""
    entry = field(KEY, CHECKSUM_KEY.encode()) + field(VALUE, sha256_of(content))
    return field(METADATA, entry)


def field(number: int, content: bytes) -> bytes:
    """A short protobuf field with bytes."""
    assert len(content) < 128
    return bytes([number << 3 | LENGTH, len(content)]) + content


CHECKSUM_BYTES = len(checksum_of(b""))


def read_onnx(path: str) -> OnnxFile:
    """Open a file written by tlkit export.

    Raises MissingInputError, DataError (not ours, or damaged), UnsafeError (weights in other files) or MismatchError
    (written by a newer tlkit).
    """
    with open_input(path) as file:
        return parse_onnx(path, file.read())


def parse_onnx(path: str, content: bytes) -> OnnxFile:
    """Like read_onnx, for the content of a file."""
    try:
        metadata, has_external_data = inspect(content)
    except ValueError:
        raise not_onnx_error(path, content[:512]) from None
    if has_external_data:
        raise UnsafeError(
            path,
            "refused: it references weights in another file",
            "Use a file that contains all of its weights, such as one exported by tlkit.",
        )
    if CHECKSUM_KEY not in metadata or DESCRIPTION_KEY not in metadata:
        raise DataError(path, "has no description, or is truncated; expected an ONNX file exported by tlkit")
    if content[-CHECKSUM_BYTES:] != checksum_of(memoryview(content)[:-CHECKSUM_BYTES]):
        raise DataError(path, "is damaged, or was changed since tlkit wrote it: its checksum does not match")
    return OnnxFile(content, parse_description(path, metadata), metadata)


def not_onnx_error(path: str, head: bytes) -> TlkitError:
    """The error for a file with these first bytes."""
    from tlkit.files.pickles import is_torch_like, unsafe  # not needed for valid files

    if is_torch_like(head):
        return unsafe(path, "it is a torch file or a pickle with another suffix")
    return DataError(path, "is not an ONNX file, or is damaged")


def inspect(content: bytes) -> tuple[dict[str, str], bool]:
    """The metadata of a model, and whether any tensor is stored in another file, which a runtime would read.

    Raises ValueError if it is not ONNX.
    """
    metadata: dict[str, str] = {}
    has_external_data = False
    waiting = [("Model", 0, len(content))]
    while waiting:
        kind, start, end = waiting.pop()
        for number, wire, value, stop in fields(content, start, end):
            if kind == "Tensor" and number == DATA_LOCATION:
                has_external_data |= wire != VARINT or value != 0
            elif wire == LENGTH and number in PARTS[kind]:
                waiting.append((PARTS[kind][number], value, stop))
            elif wire == LENGTH and kind == "Model" and number == METADATA:
                entry = {n: content[a:b].decode() for n, w, a, b in fields(content, value, stop) if w == LENGTH}
                metadata[entry.get(KEY, "")] = entry.get(VALUE, "")
    return metadata, has_external_data


def fields(content: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: (number, wire type, start, end), or for a VARINT (number, wire type, value, end).

    Raises ValueError for invalid bytes.
    """
    at = start
    while at < end:
        tag, at = varint(content, at, end)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise ValueError("no such field number")
        value = at
        if wire == VARINT:
            value, at = varint(content, at, end)
        elif wire == LENGTH:
            size, value = varint(content, at, end)
            at = value + size
        elif wire in (EIGHT_BYTES, FOUR_BYTES):
            at += 8 if wire == EIGHT_BYTES else 4
        else:
            raise ValueError("groups are not part of ONNX")
        if at > end:
            raise ValueError("a field is longer than its message")
        yield number, wire, value, at


def varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    """Decode a varint (seven bits per byte). Returns value and end. Raises ValueError."""
    value = 0
    for place, byte in enumerate(content[at : min(at + 10, end)]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise ValueError("a number does not end")
