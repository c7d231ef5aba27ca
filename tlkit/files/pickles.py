"""Find code in pickles without unpickling them. Loads no torch.

torch.load(weights_only=True) refuses code too. This check runs first, to name the code in the error, and to refuse
types that torch allows but tensors do not need (such as a bytearray of any size).
"""

from __future__ import annotations

import itertools
import pickle
import pickletools
import re
import tarfile
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from tlkit.errors import UnsafeError

HARMLESS = (
    r"collections\.(OrderedDict|Counter)|(builtins|__builtin__)\.(set|complex)|_codecs\.encode"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state)"
    r"|torch\._tensor\._rebuild_from_type_v2|torch\.nn\.parameter\.Parameter|torch\.(Size|Tensor|device)"
    r"|torch\.(storage\.)?[A-Z]\w*Storage|torch\.serialization\._get_layout"
    r"|torch\.(u?int|float|bfloat|complex|half|double|bool|long|short|char|byte)\w*"
)
"""Names that tensors and plain values use, as a regular expression. Everything else counts as code."""

NAME = r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*"

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The first of the five pickles at the start of a torch file in the legacy (non-zip) format."""

LEGACY_PICKLES = 5

LONGEST = 5_000_000
"""Largest number of pickle operations to inspect (a few seconds)."""

IMPORTS, DYNAMIC = "it imports", "it builds import names dynamically"
"""Beginnings of reasons: the file builds objects of Python classes."""

IN_A_TORCHSCRIPT_ARCHIVE = "constants.pkl"


def refuse_code(path: str, file: BinaryIO, archive: bool) -> None:
    """Raises UnsafeError if opening a torch file would run code. Ignores unreadable parts.

    archive: whether it is a readable zip archive.
    """
    reason = next(code_in_archive(file) if archive else code_in_stream(file), None)
    if reason is not None:
        raise unsafe(path, f"opening it would run code ({reason})")


def holds_objects_only(file: BinaryIO, archive: bool) -> bool:
    """Whether a torch file needs code, and only to build objects of Python classes, which can be skipped."""
    file.seek(0)
    if not archive and first_number(file) != LEGACY_MAGIC:
        return False
    reasons = list(code_in_archive(file) if archive else code_in_stream(file))
    return bool(reasons) and all(reason.startswith((IMPORTS, DYNAMIC)) for reason in reasons)


def unsafe(path: str, why: str) -> UnsafeError:
    """The error for a file with code, with advice."""
    return UnsafeError(
        path,
        f"refused: {why}",
        f"Use a state_dict or safetensors file instead. If you trust its author, add --trust-pickle {path}",
    )


def code_in_archive(file: BinaryIO) -> Iterator[str]:
    """Yield reasons why opening an archive would run code."""
    with zipfile.ZipFile(file) as archive:
        for entry in archive.namelist():
            if entry.endswith(f"/{IN_A_TORCHSCRIPT_ARCHIVE}"):
                yield "it is a TorchScript program"
            elif entry.endswith(".pkl"):
                yield from code_in(archive.read(entry))


def code_in_stream(file: BinaryIO) -> Iterator[str]:
    """Yield reasons why opening a bare pickle or a legacy torch file would run code."""
    file.seek(0)
    if is_tar(file.read(tarfile.BLOCKSIZE)):
        yield "it is a tar archive of pickles"
        return
    file.seek(0)
    is_torch = first_number(file) == LEGACY_MAGIC
    file.seek(0)
    for _ in range(LEGACY_PICKLES if is_torch else 1):
        yield from code_in(file)
    if not is_torch and is_pickle(file):
        yield "it is a bare pickle"


def code_in(pickled: bytes | BinaryIO) -> Iterator[str]:
    """Yield the code in one pickle, up to its end or to the first byte that is not part of a pickle."""
    try:
        for number, (operation, argument, _) in enumerate(pickletools.genops(pickled)):
            if operation.name in ("GLOBAL", "INST"):
                if not re.fullmatch(NAME, str(argument)):
                    return  # text that begins like a pickle
                name = str(argument).replace(" ", ".")
                if not re.fullmatch(HARMLESS, name):
                    yield f"{IMPORTS} {name[:80]}"
            elif operation.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
                yield DYNAMIC
            elif operation.name in ("PUT", "LONG_BINPUT") and int(str(argument)) > number:
                yield "it is made to exhaust memory"
                return
            elif number > LONGEST:
                yield "it has too many operations"
                return
    except Exception:  # pickletools raises many kinds of exceptions
        return


def first_number(file: BinaryIO) -> object:
    """The number in the first pickle of a legacy torch file; None for anything else."""
    try:
        for operation, argument, _ in pickletools.genops(file):
            if operation.name.startswith("LONG"):
                return argument
            if operation.name not in ("PROTO", "FRAME"):
                return None
    except Exception:  # as above
        pass
    return None


def is_pickle(file: BinaryIO) -> bool:
    """Whether a file starts with a complete pickle of a binary protocol."""
    file.seek(0)
    try:
        operations = [operation.name for operation, _, _ in itertools.islice(pickletools.genops(file), LONGEST)]
    except Exception:  # as above
        return False
    return operations[0] == "PROTO"


def is_torch_like(head: bytes) -> bool:
    """Whether a file with these first bytes is a torch file or a pickle, regardless of its name."""
    is_binary_pickle = head[:1] == pickle.PROTO and head[1:2] <= bytes([pickle.HIGHEST_PROTOCOL])
    return head[:4] == b"PK\x03\x04" or is_tar(head) or is_binary_pickle or next(code_in(head), None) is not None


def is_tar(head: bytes) -> bool:
    """Whether a file with these first bytes is a tar archive."""
    return head[257:262] == b"ustar"
