"""What a pickle would import and call, seen without opening it. Loads no torch.

torch.load(weights_only=True) refuses code too. This looks first, so that what is refused is named, and so that what
torch lets pass and tensors do not need (a bytearray of any size, say) is refused as well.
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
"""What tensors and plain values name, as a regular expression. Everything else counts as code."""


NAME = r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*"


LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The first of the five pickles that a torch file began with before it was an archive."""


LEGACY_PICKLES = 5


LONGEST = 5_000_000
"""Operations in a pickle that are looked at: some seconds."""


IN_A_TORCHSCRIPT_ARCHIVE = "constants.pkl"


def refuse_code(path: str, file: BinaryIO, archive: bool) -> None:
    """Raises UnsafeError if opening a torch file would run code. Passes over what cannot be read.

    archive: whether it is a zip archive, and one that can be read.
    """
    reason = next(code_in_archive(file) if archive else code_in_stream(file), None)
    if reason is not None:
        raise unsafe(path, f"opening it would run code ({reason})")


def unsafe(path: str, why: str) -> UnsafeError:
    """A refusal that says how to go on."""
    return UnsafeError(
        path,
        f"refused: {why}",
        f"Ask for a state_dict or safetensors file. Or, if you trust whoever made it: --trust-pickle {path}",
    )


def code_in_archive(file: BinaryIO) -> Iterator[str]:
    """Why opening an archive would run code."""
    with zipfile.ZipFile(file) as archive:
        for entry in archive.namelist():
            if entry.endswith(f"/{IN_A_TORCHSCRIPT_ARCHIVE}"):
                yield "it is a TorchScript program"
            elif entry.endswith(".pkl"):
                yield from code_in(archive.read(entry))


def code_in_stream(file: BinaryIO) -> Iterator[str]:
    """Why opening a bare pickle, or a torch file of before there were archives, would run code."""
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
    """What in one pickle is code, up to its end or to where it is no pickle any more."""
    try:
        for number, (operation, argument, _) in enumerate(pickletools.genops(pickled)):
            if operation.name in ("GLOBAL", "INST"):
                if not re.fullmatch(NAME, str(argument)):
                    return  # text that begins like a pickle
                name = str(argument).replace(" ", ".")
                if not re.fullmatch(HARMLESS, name):
                    yield f"it names {name[:80]}"
            elif operation.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
                yield "it puts names together"
            elif number > LONGEST:
                yield "it is a pickle without end"
                return
    except Exception:  # pickletools raises whatever it stumbles over
        return


def first_number(file: BinaryIO) -> object:
    """The number that the first pickle of a torch file is; None for anything else."""
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
    """Whether a file begins with a whole pickle of a binary protocol."""
    file.seek(0)
    try:
        operations = [operation.name for operation, _, _ in itertools.islice(pickletools.genops(file), LONGEST)]
    except Exception:  # as above
        return False
    return operations[0] == "PROTO"


def is_torch_like(head: bytes) -> bool:
    """Whether a file that begins so is a torch file or a pickle, whatever its name says."""
    is_binary_pickle = head[:1] == pickle.PROTO and head[1:2] <= bytes([pickle.HIGHEST_PROTOCOL])
    return head[:4] == b"PK\x03\x04" or is_tar(head) or is_binary_pickle or next(code_in(head), None) is not None


def is_tar(head: bytes) -> bool:
    """Whether a file that begins so is a tar archive."""
    return head[257:262] == b"ustar"
