"""Which device to work on."""

from __future__ import annotations

import os

import torch

from tlkit.errors import UnavailableError, UsageError


def choose_device(name: str) -> torch.device:
    """The device of that name; auto is the first GPU where there is one.

    Raises UsageError for a name that is none, UnavailableError for a device that is not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError("--device", f"{name!r} is no device; expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise UnavailableError("--device", f"{name} is not here: this machine shows {count} CUDA devices")
    elif device.type != "cpu":
        raise UsageError("--device", f"{name!r} is not supported; expected auto, cpu, cuda or cuda:N")
    return device


def make_deterministic(wanted: bool) -> None:
    """With `wanted`, choose algorithms that give the same bits every time; needed on a GPU, harmless on a CPU."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; cuBLAS asks for it
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
