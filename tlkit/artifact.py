"""A dict of tensors and plain values as one file with a checksum; the one place where torch files are opened.

Nothing from outside is ever unpickled as code: files open with torch.load(weights_only=True) and an empty
allow-list, and there is no fallback.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import pickletools
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from tlkit.errors import DataError, MismatchError, MissingInputError, UnsafeError
from tlkit.storage import write_atomically

VERSION = 1


def write_artifact(path: str, kind: str, content: Mapping[str, Any]) -> None:
    """Commit content (tensors and plain types only) as a file of the given kind, such as "tlkit-checkpoint"."""
    artifact = with_checksum(kind, content)
    write_atomically(path, lambda file: torch.save(artifact, file))


def with_checksum(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Content with what read_artifact looks at: format, version and checksum."""
    artifact = {"format": kind, "version": VERSION, **content}
    artifact["checksum"] = digest(artifact)
    return artifact


def read_artifact(path: str, *kinds: str) -> dict[str, Any]:
    """Open a file that write_artifact wrote, tensors on the CPU.

    Raises MissingInputError, DataError (not such a file, or damaged), UnsafeError (it holds code) or
    MismatchError (written by a newer tlkit).
    """
    return checked(path, load_safely(path), *kinds)


def checked(path: str, artifact: Any, *kinds: str) -> dict[str, Any]:
    """What with_checksum gave, after a look at format, version and checksum. Raises DataError or MismatchError."""
    if not isinstance(artifact, dict) or artifact.get("format") not in kinds:
        found = artifact.get("format") if isinstance(artifact, dict) else type(artifact).__name__
        detail = f"a file of format {found!r}" if found else "a torch file that tlkit did not write"
        raise DataError(path, f"is {detail}; expected {' or '.join(kinds)}")
    if not isinstance(artifact.get("version"), int):
        raise DataError(path, "is damaged: it has no version")
    if artifact["version"] > VERSION:
        raise MismatchError(
            path,
            f"has format version {artifact['version']}, but this tlkit reads up to {VERSION}",
            "Update tlkit to read it.",
        )
    if artifact.pop("checksum", None) != digest(artifact):
        raise DataError(path, "is damaged: its content does not match its checksum")
    return artifact


def load_safely(path: str) -> Any:
    """torch.load without ever running code from the file, tensors on the CPU.

    Raises MissingInputError (no such file, or unreadable), UnsafeError (it needs code) or DataError (no torch
    file, or cut short).
    """
    if os.path.isdir(path):
        raise DataError(path, "is a folder; expected a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the pickle protocol of files that are refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise MissingInputError(path, "no such file") from None
    except PermissionError:
        raise MissingInputError(path, "cannot be read: permission denied") from None
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "Unsupported class" in str(error) or is_pickle(path):
            raise UnsafeError(
                path,
                "refused: opening it would run code it contains",
                "Ask for a state_dict or safetensors file.",
            ) from None
        raise DataError(path, "is not a torch file, or is damaged") from None
    except Exception as error:  # torch raises many kinds for damaged files, none of them documented
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(path, f"is not a torch file, or is damaged ({first_line[:120]})") from None


def is_pickle(path: str) -> bool:
    """Whether a file is a bare pickle stream: code, in the end."""
    with open(path, "rb") as file:
        if file.peek(1)[:1] == pickle.PROTO:
            return True
        try:
            names = {operation.name for operation, _, _ in pickletools.genops(file)}
        except Exception:  # pickletools raises whatever it stumbles over
            return False
    return bool(names & {"GLOBAL", "INST", "REDUCE", "OBJ"})


def load_our_own_code(path: str) -> Any:
    """Open a pickled module that this very process has just written. The only place that may unpickle code."""
    return torch.load(path, map_location="cpu", weights_only=False)


def load_our_own_program(path: str) -> Any:
    """Open a torch.export file that this very process has just written: opening and running it can run any code."""
    with open(path, "rb") as file:  # by its name it would have to end with .pt2
        return torch.export.load(file)


def digest(value: Any) -> str:
    """SHA-256 of nested dicts, lists, plain values and tensors: types, shapes and bytes, independent of the file.

    Raises TypeError for anything else, so that nothing but plain types is ever written.
    """
    sha256 = hashlib.sha256()
    _feed(sha256, value)
    return sha256.hexdigest()


def _feed(sha256: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu().contiguous()
        sha256.update(f"tensor {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha256.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        sha256.update(f"dict {len(value)}".encode())
        for key, item in value.items():
            _feed(sha256, key)
            _feed(sha256, item)
    elif isinstance(value, (list, tuple)):
        sha256.update(f"{type(value).__name__} {len(value)}".encode())
        for item in value:
            _feed(sha256, item)
    elif value is None or isinstance(value, (bool, int, float, str)):
        sha256.update(f"{type(value).__name__} {value!r}\0".encode("utf-8", "surrogatepass"))
    else:
        raise TypeError(f"{type(value).__name__} is not a plain type")
