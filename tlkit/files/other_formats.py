"""Recognize files that are not weights for PyTorch, to name them in errors. Loads no torch."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from tlkit.files.inputs import size_of
from tlkit.files.pickles import is_torch_like

HEAD_BYTES = 4096
NUMPY = b"\x93NUMPY"

FROM_TENSORFLOW = "Export the weights to PyTorch, or use a .safetensors file of the same model."
DOWNLOAD = "Download it again, and compare its size with that on the page."


@dataclass(frozen=True)
class OtherFormat:
    """A format. matches: whether the first bytes and the name of a file are of it. advice: what to do instead."""

    description: str
    matches: Callable[[bytes, str], bool]
    advice: str = "Use a .safetensors file, or a .pth file with a state dict."


def starts_with(*beginnings: bytes, at: int = 0) -> Callable[[bytes, str], bool]:
    """Whether a file has one of these bytes at a place."""
    return lambda head, name: head[at:].startswith(beginnings)


def text_with(pattern: bytes) -> Callable[[bytes, str], bool]:
    """Whether a file begins with text that matches, after spaces and a byte order mark."""
    compiled = re.compile(rb"(\xef\xbb\xbf)?\s*(" + pattern + rb")", re.IGNORECASE)
    return lambda head, name: compiled.match(head) is not None


def is_msgpack(head: bytes, name: str) -> bool:
    """Whether a file begins with a MessagePack map whose first key is a name, as Flax writes it."""
    start = {0xDE: 3, 0xDF: 5}.get(head[0], 1 if 0x81 <= head[0] <= 0x8F else 0) if head else 0
    if not start or len(head) <= start + 1:
        return False
    length, text = (head[start] - 0xA0, start + 1) if 0xA1 <= head[start] <= 0xBF else (0, 0)
    if head[start] == 0xD9:
        length, text = head[start + 1], start + 2
    return 0 < length <= len(head) - text and re.fullmatch(rb"[\w./-]+", head[text : text + length]) is not None


def is_onnx(head: bytes, name: str) -> bool:
    """Whether a file is an ONNX model: a protobuf whose first field is a small version number."""
    return name.endswith(".onnx") or (head[:1] == b"\x08" and head[1:2] < b"\x20" and head[2:3] in b"\x12\x1a:B")


def suffix(*suffixes: str) -> Callable[[bytes, str], bool]:
    """Whether the name of a file ends so."""
    return lambda head, name: name.lower().endswith(suffixes)


OTHER_FORMATS = (
    OtherFormat("an empty file", lambda head, name: head == b"", DOWNLOAD),
    OtherFormat(
        "a Git LFS pointer, not the file itself", starts_with(b"version https://git-lfs"),
        "Get the file: git lfs pull",
    ),
    OtherFormat("a web page, not a file of weights", text_with(rb"<!doctype html|<html|<head|<script"), DOWNLOAD),
    OtherFormat("an XML document, such as an error of a file server", text_with(rb"<\?xml|<error"), DOWNLOAD),
    OtherFormat("a Keras or TensorFlow file of weights (HDF5)", starts_with(b"\x89HDF\r\n\x1a\n"), FROM_TENSORFLOW),
    OtherFormat("a TensorFlow Lite model", starts_with(b"TFL3", at=4), FROM_TENSORFLOW),
    OtherFormat("a GGUF file", starts_with(b"GGUF", b"GGML", b"ggjt", b"lmgg")),
    OtherFormat("a NumPy array", starts_with(NUMPY)),
    OtherFormat("a file of weights of MXNet", starts_with(b"\x12\x01\0\0\0\0\0\0")),
    OtherFormat("an ExecuTorch program", starts_with(b"ET", at=4)),
    OtherFormat("a compressed file (gzip)", starts_with(b"\x1f\x8b"), "Decompress it: gunzip FILE, or tar -xzf FILE"),
    OtherFormat("a compressed file (xz)", starts_with(b"\xfd7zXZ\0"), "Decompress it: unxz FILE, or tar -xJf FILE"),
    OtherFormat("a compressed file (bzip2)", starts_with(b"BZh"), "Decompress it: bunzip2 FILE"),
    OtherFormat("a compressed file (zstd)", starts_with(b"\x28\xb5\x2f\xfd"), "Decompress it: unzstd FILE"),
    OtherFormat("a 7-Zip archive", starts_with(b"7z\xbc\xaf\x27\x1c"), "Extract it first: 7z x FILE"),
    OtherFormat("a RAR archive", starts_with(b"Rar!"), "Extract it first: unrar x FILE"),
    OtherFormat("an image", starts_with(b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")),
    OtherFormat("a PDF document", starts_with(b"%PDF")),
    OtherFormat(
        "a part of a TensorFlow checkpoint",
        lambda head, name: re.search(r"\.(index|meta|data-\d+-of-\d+)$", name) is not None,
        FROM_TENSORFLOW,
    ),
    OtherFormat("a TensorFlow graph (protobuf)", suffix(".pb", ".pbtxt"), FROM_TENSORFLOW),
    OtherFormat("an ONNX model", is_onnx),
    OtherFormat("a Flax file of weights (MessagePack)", is_msgpack),
    OtherFormat("a Core ML model", suffix(".mlmodel")),
    OtherFormat("a file of weights of PaddlePaddle", suffix(".pdparams", ".pdiparams", ".pdmodel")),
    OtherFormat("a JSON document", text_with(rb"[{\[]\s*[\"{\[\]}]"), DOWNLOAD),
)  # fmt: skip
"""Formats that people pass by mistake, the more certain signs first."""

ARCHIVES = (
    ("a Keras model", r"model\.weights\.h5$|^keras_metadata\.pb$", FROM_TENSORFLOW),
    ("an archive of NumPy arrays (.npz)", r"\.npy$", "Use a .safetensors file, or a .pth file with a state dict."),
    ("a TensorFlow SavedModel in an archive", r"(^|/)saved_model\.pb$", FROM_TENSORFLOW),
    ("an archive with files of weights inside", r"\.(pth|pt|ckpt|safetensors|bin|h5)$", "Extract it first: unzip FILE"),
)
"""Zip archives that torch did not write, by the names of files inside."""


def other_format(file: BinaryIO, name: str) -> OtherFormat | None:
    """The format of a file that is not weights for PyTorch; None for torch, safetensors and unknown formats."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if head.startswith(b"PK\x03\x04"):
        return other_archive(file)
    if is_torch_like(head[:512]) and not head.startswith(NUMPY):  # whose first byte is an operation of pickles
        return None
    if size_of(file) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size_of(file):
        return None  # safetensors, some header lengths of which look like the beginnings below
    return next((format for format in OTHER_FORMATS if format.matches(head, name)), None)


def other_archive(file: BinaryIO) -> OtherFormat | None:
    """The format of a zip archive; None if torch wrote it, or if it cannot be read."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return None
    if any(name.endswith(".pkl") for name in names):
        return None
    for description, pattern, advice in ARCHIVES:
        if any(re.search(pattern, name) for name in names):
            return OtherFormat(description, lambda head, name: True, advice)
    return OtherFormat("a zip archive without weights", lambda head, name: True)
