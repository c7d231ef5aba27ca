"""A .pt2 file of ours (torch.export): its weights and description, read without running anything that it holds.

torch.export.load unpickles parts of a file, evaluates expressions in it, and calls any function of torch that its graph
names. So only plain numbers are taken from the archive, and the network is built from the description.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tlkit.artifact import checked, with_checksum
from tlkit.errors import DataError, MissingInputError, UnsafeError

FORMAT = "tlkit-exported-program"
DESCRIPTION_FILE = "tlkit.json"
"""Among the archive's extra files."""

DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64,
    6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
"""By the numbers of torch.export's schema (a test compares)."""


def describe(description: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """The text of the description file for a network with these tensors."""
    artifact = with_checksum(FORMAT, {**description, "model_state_dict": dict(sorted(state.items()))})
    return json.dumps({key: value for key, value in artifact.items() if key != "model_state_dict"})


def read_pt2(path: str, prefix: str = "network.") -> dict[str, Any]:
    """The description of a file that export wrote, with its tensors as model_state_dict.

    prefix: before the names of the tensors in the file. Raises MissingInputError, DataError (not ours, or damaged),
    UnsafeError (tensors that are pickled) or MismatchError (written by a newer tlkit).
    """
    if os.path.exists(path) and not os.path.isfile(path):
        problem = "is a folder; expected a file" if os.path.isdir(path) else "is not a regular file"
        raise DataError(path, problem)
    try:
        with zipfile.ZipFile(path) as archive:
            artifact = read_archive(path, archive, prefix)
    except FileNotFoundError:
        raise MissingInputError(path, "no such file") from None
    except PermissionError:
        raise MissingInputError(path, "cannot be read: permission denied") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, NotImplementedError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(path, f"is not a torch.export file, or is damaged ({first_line[:120]})") from None
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(path, f"is damaged, or no torch.export file that tlkit wrote ({error!r})") from None
    return checked(path, artifact, FORMAT)


def read_archive(path: str, archive: zipfile.ZipFile, prefix: str) -> dict[str, Any]:
    """Description and tensors, as they are in the archive. Raises anything for an archive that is not ours."""
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise ValueError("it is compressed")  # torch compresses nothing; and what grows when it is read may never end
    names = archive.namelist()
    root = next((name.partition("/")[0] for name in names if name.endswith(f"/extra/{DESCRIPTION_FILE}")), None)
    if root is None:
        raise DataError(path, "does not describe itself; expected a torch.export file that tlkit exported")
    damaged = archive.testzip()
    if damaged is not None:
        raise DataError(path, f"is damaged: {damaged} in it does not match its checksum")
    artifact: dict[str, Any] = json.loads(archive.read(f"{root}/extra/{DESCRIPTION_FILE}"))
    entries = json.loads(archive.read(f"{root}/data/weights/model_weights_config.json"))["config"]
    checksum = artifact.pop("checksum", None)
    artifact["model_state_dict"] = {
        name.removeprefix(prefix): read_tensor(path, archive, f"{root}/data/weights/", entry)
        for name, entry in sorted(entries.items())
    }
    return {**artifact, "checksum": checksum}


def read_tensor(path: str, archive: zipfile.ZipFile, folder: str, entry: Mapping[str, Any]) -> Tensor:
    """A tensor from its bytes. Raises UnsafeError if it is pickled."""
    if entry["use_pickle"]:
        raise UnsafeError(path, "refused: opening its weights would run code", "Ask for a safetensors file.")
    meta = entry["tensor_meta"]
    sizes, strides = ([number["as_int"] for number in meta[key]] for key in ("sizes", "strides"))
    content = bytearray(archive.read(folder + entry["path_name"]))
    if not content:
        return torch.zeros(sizes, dtype=DTYPES[meta["dtype"]])
    values = torch.frombuffer(content, dtype=DTYPES[meta["dtype"]])
    return values.as_strided(sizes, strides, meta["storage_offset"]["as_int"])
