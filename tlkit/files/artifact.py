"""Read and write dicts of tensors as .pt files with a checksum, and open untrusted torch files as data.

Nothing is unpickled as code: files open with torch.load(weights_only=True) and an empty allow-list, without fallback.
A file named with --trust-pickle is opened by trusted.py.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, BinaryIO

import torch

from tlkit.errors import DataError, TlkitError, first_line, is_memory
from tlkit.files.archive import check_archive, is_archive
from tlkit.files.atomic import write_atomically
from tlkit.files.checksum import write_checksummed_archive
from tlkit.files.description import VERSION, newer
from tlkit.files.inert import read_inert
from tlkit.files.inputs import open_input, size_of
from tlkit.files.pickles import holds_objects_only, refuse_code
from tlkit.files.trusted import is_trusted, unpickle

OURS = "tlkit-"
"""Prefix of every tlkit format."""


@dataclass(frozen=True)
class TorchFile:
    """Content of a file, tensors on the CPU. has_valid_checksum: whether it has a valid tlkit checksum.

    skipped: names of classes whose objects were not rebuilt.
    """

    path: str
    content: Any
    has_valid_checksum: bool
    skipped: tuple[str, ...] = ()


def write_artifact(path: str, kind: str, content: Mapping[str, object], inside: str | None = None) -> None:
    """Write content (tensors and plain types only) as a file of the given kind, such as "tlkit-checkpoint".

    `checksum` in the content is independent of the file; the file has another checksum of all its bytes. inside: as in
    write_atomically.
    """
    artifact = {"format": kind, "version": VERSION, **content}
    artifact["checksum"] = digest(artifact)

    def write(file: IO[bytes]) -> None:
        write_checksummed_archive(file, lambda stream: torch.save(artifact, stream))

    write_atomically(path, write, inside)


def read_artifact(path: str, *kinds: str) -> dict[str, Any]:
    """Open a file written by write_artifact, tensors on the CPU.

    Raises MissingInputError, DataError (not such a file, or damaged), UnsafeError (it holds code) or
    MismatchError (written by a newer tlkit).
    """
    return artifact_in(open_torch_file(path), *kinds)


def artifact_in(file: TorchFile, *kinds: str) -> dict[str, Any]:
    """The content given to write_artifact, plus format and version. Raises DataError or MismatchError."""
    content = checked(file.path, file.content, *kinds)
    content.pop("checksum", None)
    return content


def checked(path: str, content: object, *kinds: str) -> dict[str, Any]:
    """Require one of these kinds and a known version. Raises DataError or MismatchError."""
    if not isinstance(content, dict) or not isinstance(found := content.get("format"), str):
        raise DataError(path, f"is a torch file, but not written by tlkit; expected {' or '.join(kinds)}")
    if found not in kinds:
        raise DataError(path, f"has format {found[:80]!r}; expected {' or '.join(kinds)}")
    version = content.get("version")
    if type(version) is not int:
        raise DataError(path, "is damaged: it has no version")
    if version > VERSION:
        raise newer(path, version)
    return dict(content)


def load_safely(path: str, trusted: str | None = None) -> Any:
    """Content of an untrusted torch file, tensors on the CPU. trusted: the file that may run code, if any.

    Raises MissingInputError (missing or unreadable), UnsafeError (it contains code) or DataError (not a torch file,
    or damaged).
    """
    return open_torch_file(path, trusted).content


def open_torch_file(path: str, trusted: str | None = None, skip_objects: bool = False) -> TorchFile:
    """Like load_safely, and whether the file has a valid checksum.

    skip_objects: read a file that holds objects of Python classes without them, instead of refusing it.
    """
    with open_input(path) as file:
        archive = is_archive(file)
        has_valid_checksum = archive and check_archive(path, file)
        if is_trusted(path, trusted):
            return TorchFile(path, unpickle(path, trusted), has_valid_checksum)
        content: object = None
        skipped: tuple[str, ...] = ()
        if skip_objects and holds_objects_only(file, archive):
            content, skipped = read_inert(path, file, archive)
        if not skipped or is_ours(content):
            refuse_code(path, file, archive)
            content = load_plain(path, file)
        require_held(path, content, size_of(file))
        if not has_valid_checksum and is_ours(content):
            raise without_checksum(path)
        return TorchFile(path, content, has_valid_checksum, skipped)


def is_ours(content: object) -> bool:
    """Whether content has a format of tlkit, whose files hold no objects."""
    return isinstance(content, dict) and str(content.get("format"))[: len(OURS)] == OURS


def without_checksum(path: str) -> DataError:
    """The error for a tlkit file without a checksum."""
    return DataError(path, "is damaged, or was changed since tlkit wrote it: its checksum is missing")


IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
"""How image files begin: JPEG, PNG, GIF, WebP, BMP, TIFF."""


def load_plain(path: str, file: BinaryIO) -> object:
    """Load tensors and plain values. Raises DataError."""
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of files that are refused anyway
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many undocumented exceptions for damaged files
        asked = re.search(r"tried to allocate (\d+) bytes", str(error))
        if is_memory(error) and int(asked[1] if asked else 0) <= size_of(file):
            raise
        file.seek(0)
        if file.read(12).startswith(IMAGES):
            raise DataError(
                path, "is an image; expected a run folder, a checkpoint, model.pt or an exported model"
            ) from None
        raise DataError(path, f"is not a torch file, or is damaged ({first_line(error)[:120]})") from None


def require_held(path: str, content: object, size: int) -> None:
    """Raises DataError unless the content fits into the file's `size` bytes.

    A file of a few bytes can describe an expanded tensor of terabytes, or nested lists that double with each level;
    copying or printing them would never end.
    """
    try:
        if count_values(content, {}) <= size:
            return
    except (ValueError, RecursionError):
        pass
    raise DataError(path, "declares more content than it has bytes")


def count_values(value: object, counted: dict[int, int]) -> int:
    """Count values in nested containers. Raises ValueError if one contains itself or a tensor is not a plain array."""
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise ValueError("not an array")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError("larger than its storage")
        return 1
    if not isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return 1
    if id(value) not in counted:
        counted[id(value)] = 0  # while its own values are counted
        parts = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
        counted[id(value)] = 1 + sum(count_values(part, counted) for part in parts)
    if not counted[id(value)]:
        raise ValueError("contains itself")
    return counted[id(value)]


@contextmanager
def as_content_of(path: str, what: str) -> Iterator[None]:
    """Turn errors of using the content of a file into DataError about that file."""
    try:
        yield
    except TlkitError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, AssertionError) as error:
        if is_memory(error):
            raise
        raise DataError(
            path, f"is not a complete {what} ({type(error).__name__}: {first_line(error)[:120]})"
        ) from error


def digest(value: object) -> str:
    """SHA-256 of nested dicts, lists, plain values and tensors (types, shapes, bytes), independent of the file.

    Raises TypeError for anything else, so that only plain types are ever written.
    """
    sha256 = hashlib.sha256()
    feed(sha256.update, value)
    return sha256.hexdigest()


def feed(update: Callable[[bytes | memoryview], object], value: object) -> None:
    """Call update with the bytes of a value and of all that it contains."""
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu().contiguous()
        update(f"tensor {tensor.dtype} {tuple(tensor.shape)}".encode())
        update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        update(f"dict {len(value)}".encode())
        for key, item in value.items():
            feed(update, key)
            feed(update, item)
    elif isinstance(value, (list, tuple)):
        update(f"{type(value).__name__} {len(value)}".encode())
        for item in value:
            feed(update, item)
    elif value is None or isinstance(value, (bool, int, float, str)):
        update(f"{type(value).__name__} {value!r}\0".encode("utf-8", "surrogatepass"))
    else:
        raise TypeError(f"{type(value).__name__} is not a plain type")
