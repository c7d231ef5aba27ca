"""A .pt2 file of ours (torch.export): its weights and description, read without running anything that it holds.

torch.export.load unpickles parts of a file, evaluates expressions in it, and calls any function of torch that its graph
names. So only plain numbers are taken from the archive, and the network is built from the description.
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
"""Among the archive's extra files."""


PROGRAM_FILE = "archive_format"
"""In every archive of torch.export."""


DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64,
    6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
"""By the numbers of torch.export's schema (a test compares)."""


def describe(description: Mapping[str, Any]) -> str:
    """The text of the description file."""
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
    """The description of a file that export wrote, with its tensors as model_state_dict.

    prefix: before the names of the tensors in the file. Raises MissingInputError, DataError (not ours, or damaged),
    UnsafeError (tensors that are pickled) or MismatchError (written by a newer tlkit).
    """
    with open_input(path) as file:
        if not is_archive(file):
            raise DataError(path, "is not a torch.export file, or is damaged")
        sealed = check_archive(path, file)
        try:
            with zipfile.ZipFile(file) as archive:
                content = read_archive(path, archive, prefix)
        except DAMAGED as error:
            if is_memory(error):
                raise
            raise DataError(path, f"is not a torch.export file, or is damaged ({first_line(error)[:120]})") from None
        except (LookupError, TypeError, AttributeError) as error:
            problem = f"is damaged, or no torch.export file that tlkit wrote ({type(error).__name__}: {error})"
            raise DataError(path, problem[:200]) from None
    if not sealed:
        raise without_checksum(path)
    return checked(path, content, FORMAT)


def read_archive(path: str, archive: zipfile.ZipFile, prefix: str) -> dict[str, Any]:
    """The description and tensors of an archive. Raises UnsafeError for pickled ones, anything for strange ones."""
    names = archive.namelist()
    root = next((name.partition("/")[0] for name in names if name.endswith(f"/extra/{DESCRIPTION_FILE}")), None)
    if root is None:
        raise DataError(path, "does not describe itself; expected a torch.export file that tlkit exported")
    content: dict[str, Any] = json.loads(archive.read(f"{root}/extra/{DESCRIPTION_FILE}"))
    entries = json.loads(archive.read(f"{root}/data/weights/model_weights_config.json"))["config"]

    @cache  # however many tensors name it
    def read(name: str) -> bytearray:
        return bytearray(archive.read(f"{root}/data/weights/{name}"))

    content["model_state_dict"] = {
        name.removeprefix(prefix): read_tensor(path, read, entry) for name, entry in sorted(entries.items())
    }
    return content


def read_tensor(path: str, read: Callable[[str], bytearray], entry: Mapping[str, Any]) -> Tensor:
    """A tensor from the bytes that `read` gives for a name.

    Raises UnsafeError if it is pickled, ValueError if it claims more than its bytes.
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
