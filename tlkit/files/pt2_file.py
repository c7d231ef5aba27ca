"""Read weights and description of .pt2 files (torch.export) written by tlkit, without running their code.

torch.export.load unpickles parts of a file, evaluates expressions in it, and calls any torch function that its graph
names. So only tensor bytes are read from the archive, and the network is built from the description.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, BinaryIO

import torch
from torch import Tensor

from tlkit.errors import DataError, first_line, is_memory
from tlkit.files.archive import DAMAGED, check_archive, is_archive
from tlkit.files.artifact import checked, without_checksum
from tlkit.files.description import VERSION
from tlkit.files.inputs import open_input
from tlkit.files.pickles import unsafe

FORMAT = "tlkit-exported-program"

DESCRIPTION_FILE = "tlkit.json"
"""Name of the description among the archive's extra files."""

PROGRAM_FILE = "archive_format"
"""A file in every archive of torch.export."""

DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64,
    6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
"""dtype by its number in the schema of torch.export (a test compares)."""


def describe(description: Mapping[str, object]) -> str:
    """The content of the description file."""
    return json.dumps({"format": FORMAT, "version": VERSION, **description})


def is_program(file: BinaryIO) -> bool:
    """Whether a file is an archive of torch.export."""
    if not is_archive(file):
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith(f"/{PROGRAM_FILE}") for name in archive.namelist())
    except DAMAGED:
        return False


def read_pt2(path: str, prefix: str = "network.") -> dict[str, Any]:
    """Read the description of a file written by tlkit export, with its tensors as model_state_dict.

    prefix: of the tensor names in the file. Raises MissingInputError, DataError (not ours, or damaged),
    UnsafeError (tensors that are pickled) or MismatchError (written by a newer tlkit).
    """
    with open_input(path) as file:
        if not is_archive(file):
            raise DataError(path, "is not a torch.export file, or is damaged")
        has_valid_checksum = check_archive(path, file)
        try:
            with zipfile.ZipFile(file) as archive:
                content = read_archive(path, archive, prefix)
        except DAMAGED as error:
            if is_memory(error):
                raise
            raise DataError(path, f"is not a torch.export file, or is damaged ({first_line(error)[:120]})") from None
        except (LookupError, TypeError, AttributeError) as error:
            problem = f"is damaged, or not a torch.export file written by tlkit ({type(error).__name__}: {error})"
            raise DataError(path, problem[:200]) from None
    if not has_valid_checksum:
        raise without_checksum(path)
    return checked(path, content, FORMAT)


def read_archive(path: str, archive: zipfile.ZipFile, prefix: str) -> dict[str, object]:
    """Description and tensors of an archive. Raises UnsafeError for pickled tensors, other errors for invalid ones."""
    names = archive.namelist()
    root = next((name.partition("/")[0] for name in names if name.endswith(f"/extra/{DESCRIPTION_FILE}")), None)
    if root is None:
        raise DataError(path, "has no description; expected a torch.export file exported by tlkit")
    content: dict[str, object] = json.loads(archive.read(f"{root}/extra/{DESCRIPTION_FILE}"))
    entries = json.loads(archive.read(f"{root}/data/weights/model_weights_config.json"))["config"]

    @cache  # several tensors can share it
    def read(name: str) -> bytearray:
        return bytearray(archive.read(f"{root}/data/weights/{name}"))

    content["model_state_dict"] = {
        name.removeprefix(prefix): read_tensor(path, read, entry) for name, entry in sorted(entries.items())
    }
    return content


def read_tensor(path: str, read: Callable[[str], bytearray], entry: Mapping[str, Any]) -> Tensor:
    """Build a tensor from the bytes that `read` returns for its file name.

    Raises UnsafeError if it is pickled, ValueError if it declares more than its bytes.
    """
    if entry["use_pickle"]:
        raise unsafe(path, "opening its weights would run code")
    meta = entry["tensor_meta"]
    sizes, strides = ([number["as_int"] for number in meta[key]] for key in ("sizes", "strides"))
    content = read(entry["path_name"])
    dtype = DTYPES[meta["dtype"]]
    if min(sizes, default=1) < 0 or math.prod(sizes) * dtype.itemsize > len(content):
        raise ValueError("a tensor is larger than its bytes")
    if not content:
        return torch.zeros(sizes, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype).as_strided(sizes, strides, meta["storage_offset"]["as_int"])
