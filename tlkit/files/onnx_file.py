"""An .onnx file of ours as bytes: what it says about itself, its seal, and a refusal of files that lead elsewhere.

ONNX is one protobuf message. Its fields can be walked without any library, so a file is judged before a runtime, which
would follow references to other files, gets to see it. Loads neither torch nor onnx.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tlkit.errors import DataError, TlkitError, UnsafeError
from tlkit.files.description import DESCRIPTION_KEY, parse_description
from tlkit.files.inputs import open_input
from tlkit.files.seal import CHECKSUM_KEY, sha256_of

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
"""The messages through which tensors are reached, and their fields that lead on (a test compares with onnx's own)."""


@dataclass(frozen=True)
class OnnxFile:
    """A file that is whole and ours. description: plain JSON types."""

    content: bytes
    description: Mapping[str, Any]


def checksum_of(content: bytes | memoryview) -> bytes:
    """The SHA-256 of a file as one more entry of its metadata, the last, to be put at its end: it stays valid ONNX."""
    entry = field(KEY, CHECKSUM_KEY.encode()) + field(VALUE, sha256_of(content))
    return field(METADATA, entry)


def field(number: int, content: bytes) -> bytes:
    """A short protobuf field that holds bytes."""
    assert len(content) < 128
    return bytes([number << 3 | LENGTH, len(content)]) + content


SEAL_BYTES = len(checksum_of(b""))


def read_onnx(path: str) -> OnnxFile:
    """Open a file that export wrote.

    Raises MissingInputError, DataError (not ours, or damaged), UnsafeError (weights in other files) or MismatchError
    (written by a newer tlkit).
    """
    with open_input(path) as file:
        content = file.read()
    try:
        metadata, leads_elsewhere = inspect(content)
    except ValueError:
        raise no_onnx(path, content[:512]) from None
    if leads_elsewhere:
        raise UnsafeError(
            path,
            "refused: it asks for weights from another file",
            "Ask for a file that holds all of its weights, as tlkit exports it.",
        )
    if CHECKSUM_KEY not in metadata or DESCRIPTION_KEY not in metadata:
        raise DataError(path, "does not describe itself, or is cut short; expected an ONNX file that tlkit exported")
    if content[-SEAL_BYTES:] != checksum_of(memoryview(content)[:-SEAL_BYTES]):
        raise DataError(path, "is damaged, or was changed since tlkit wrote it: it does not match its seal")
    return OnnxFile(content, parse_description(path, metadata))


def no_onnx(path: str, head: bytes) -> TlkitError:
    """Why a file that begins so is refused."""
    from tlkit.files.pickles import is_torch_like, unsafe  # what an ONNX file need not wait for

    if is_torch_like(head):
        return unsafe(path, "it is a torch file or a pickle under another name")
    return DataError(path, "is not an ONNX file, or is damaged")


def inspect(content: bytes) -> tuple[dict[str, str], bool]:
    """The metadata of a model, and whether any of its tensors lies in another file, which a runtime would read.

    Raises ValueError for what is no ONNX.
    """
    metadata: dict[str, str] = {}
    leads_elsewhere = False
    waiting = [("Model", 0, len(content))]
    while waiting:
        kind, start, end = waiting.pop()
        for number, wire, value, stop in fields(content, start, end):
            if kind == "Tensor" and number == DATA_LOCATION:
                leads_elsewhere |= wire != VARINT or value != 0
            elif wire == LENGTH and number in PARTS[kind]:
                waiting.append((PARTS[kind][number], value, stop))
            elif wire == LENGTH and kind == "Model" and number == METADATA:
                entry = {n: content[a:b].decode() for n, w, a, b in fields(content, value, stop) if w == LENGTH}
                metadata[entry.get(KEY, "")] = entry.get(VALUE, "")
    return metadata, leads_elsewhere


def fields(content: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: (number, wire type, start, end), or for a VARINT (number, wire type, value, end).

    Raises ValueError for bytes that are no message.
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
    """A number of seven bits a byte, and where it ends. Raises ValueError."""
    value = 0
    for place, byte in enumerate(content[at : min(at + 10, end)]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise ValueError("a number does not end")
