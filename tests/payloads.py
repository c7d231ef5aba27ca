"""Files that run code when they are opened as pickles: in every form that a torch file has had, under every name."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tlkit.files.checksum import write_checksummed_archive

SUFFIXES = (".pt", ".pth", ".safetensors", ".onnx", ".pt2")


class Canary:
    """Pickled code that leaves a folder behind when it runs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def saved(value: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **how)
    return file.getvalue()


def sealed(value: Any) -> bytes:
    """As a stranger can seal it, too."""
    file = io.BytesIO()
    write_checksummed_archive(file, lambda inner: torch.save(value, inner))
    return file.getvalue()


def in_tar(value: Any) -> bytes:
    """As torch wrote files before 0.1.10."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(value, protocol=2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def as_torchscript(value: Any) -> bytes:
    """An archive with a program beside its pickles."""
    pickled = pickle.dumps(value, protocol=2)
    code = {"m/code/__torch__.py": b"def forward(self, x):\n    return x\n", "m/version": b"3\n"}
    return zipped({"m/data.pkl": pickled, "m/constants.pkl": pickled, **code})


class Module(torch.nn.Module):
    """A whole model, as plain torch.save writes it."""

    def __init__(self, canary: Canary) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 4, 3)
        self.canary = canary


FORMS: dict[str, Callable[[Canary], bytes]] = {
    "checkpoint": lambda canary: saved({"format": "tlkit-checkpoint", "version": 1, "x": canary}),
    "sealed model": lambda canary: sealed({"format": "tlkit-model", "version": 1, "x": canary}),
    "sealed checkpoint": lambda canary: sealed({"format": "tlkit-checkpoint", "version": 1, "x": canary}),
    "state dict": lambda canary: saved({"conv1.weight": torch.ones(1), "x": canary}),
    "only code": lambda canary: saved(canary),
    "whole module": lambda canary: saved(Module(canary)),
    "protocol 4": lambda canary: saved({"x": canary}, pickle_protocol=4),
    "before zip": lambda canary: saved({"x": canary}, _use_new_zipfile_serialization=False),
    "in tar": in_tar,
    "torchscript": as_torchscript,
    "compressed": lambda canary: zipped({"a/data.pkl": pickle.dumps(canary, 2)}, zipfile.ZIP_DEFLATED),
    "bare, protocol 0": lambda canary: pickle.dumps(canary, protocol=0),
    "bare, protocol 2": lambda canary: pickle.dumps({"x": canary}, protocol=2),
    "bare, newest": lambda canary: pickle.dumps([canary]),
}
