"""Which device to work on."""

from __future__ import annotations

import os

import torch

from tlkit.errors import UnavailableError, UsageError
from tlkit.ranks import place


def choose_device(name: str) -> torch.device:
    """The device of that name; auto is the first GPU where there is one, of several ranks each has its own.

    Raises UsageError for a name that is none, UnavailableError for a device that is not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    here = place()
    if name == "cuda" and here is not None:
        require_gpu_each(name, here.local_size)
        return torch.device("cuda", here.local_rank)
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


def require_gpu_each(name: str, ranks: int) -> None:
    """Raises UnavailableError if ranks that work on GPUs are more than there are."""
    gpus = torch.cuda.device_count()
    if ranks > gpus and (name.startswith("cuda") or (name == "auto" and gpus)):
        problem = f"{ranks} of them need a GPU each, but this machine shows {gpus} CUDA devices"
        raise UnavailableError("ranks", problem, "Start fewer, or compute on the processor: --device cpu")


def make_deterministic(wanted: bool) -> None:
    """With `wanted`, choose algorithms that give the same bits every time; needed on a GPU, harmless on a CPU."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; cuBLAS asks for it
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
