"""Which devices to work on, and how a model comes to be on them."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from tlkit.devices.nvml import GpuNote
from tlkit.distributed.env import rank_info
from tlkit.distributed.launch import require_gpu_each
from tlkit.errors import UnavailableError, UsageError
from tlkit.options.devices import DeviceSpec
from tlkit.terminal import count, show_beside_bars


@dataclass(frozen=True)
class Devices:
    """What a model runs on. split_at: the modules that stages begin with under --parallel model; none to balance."""

    every: tuple[torch.device, ...]
    parallel: str
    split_at: tuple[str, ...]

    @property
    def first(self) -> torch.device:
        """Where images enter, and where head, labels and loss are."""
        return self.every[0]

    def precision(self, wanted: str) -> str:
        """A key of PRECISIONS. Raises UsageError for one that they cannot share."""
        kinds = sorted({device.type for device in self.every})
        if len(kinds) == 1:
            return choose_precision(wanted, self.first)
        if wanted not in ("auto", "fp32"):
            raise UsageError(f"--precision {wanted}", f"does not go over from {kinds[0]} to {kinds[1]}; use fp32")
        return "fp32"

    def data_parallel(self, module: nn.Module) -> nn.Module:
        """A module that passes each batch on all devices at once under --parallel data; else as it is."""
        return nn.DataParallel(module, [*self.every]) if self.parallel == "data" else module


def choose_devices(device_spec: DeviceSpec, ranks: int = 1) -> Devices:
    """The devices that are asked for; auto is the first GPU where there is one, or under --parallel all of them.

    Raises UsageError for a name that is none, and for several devices in each of several ranks; UnavailableError for a
    device that is not here.
    """
    if ranks > 1 and device_spec.parallel != "none":
        raise UsageError(f"--parallel {device_spec.parallel}", f"is for one process, but there are {ranks} ranks")
    if device_spec.parallel == "none":
        return Devices((choose_device(device_spec.names[0]),), "none", ())
    if device_spec.names != ("auto",):
        return Devices(tuple(map(choose_device, device_spec.names)), device_spec.parallel, device_spec.split_at)
    here = torch.cuda.device_count()
    wanted = len(device_spec.split_at) + 1 if device_spec.split_at else device_spec.stages or max(here, 2)
    if here < wanted:
        raise UnavailableError(
            f"--parallel {device_spec.parallel}",
            f"needs {wanted} devices, but this machine shows {count(here, 'CUDA device')}",
            f"Name the devices: --device {'cuda:0,cpu' if here else 'cpu,cpu'}" * (device_spec.parallel == "model"),
        )
    return Devices(
        tuple(torch.device("cuda", index) for index in range(wanted)), device_spec.parallel, device_spec.split_at
    )


def choose_device(name: str) -> torch.device:
    """The device of that name; auto is the first GPU where there is one, of several ranks each has its own.

    Raises UsageError for a name that is none, UnavailableError for a device that is not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    here = rank_info()
    if name == "cuda" and here is not None:
        require_gpu_each(name, here.local_size)
        return torch.device("cuda", here.local_rank)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError("--device", f"{name!r} is no device; expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        gpus = torch.cuda.device_count()
        if (device.index or 0) >= gpus:
            raise UnavailableError("--device", f"{name} is not here: this machine shows {gpus} CUDA devices")
    elif device.type != "cpu":
        raise UsageError("--device", f"{name!r} is not supported; expected auto, cpu, cuda or cuda:N")
    return device


def show_gpu_use(devices: Devices) -> None:
    """Have progress bars show memory and use of the GPUs that are worked on."""
    indices = [device.index or 0 for device in dict.fromkeys(devices.every) if device.type == "cuda"]
    if indices:
        show_beside_bars(GpuNote([uuid_of(index) for index in indices]))


def uuid_of(index: int) -> str:
    """What the driver calls a GPU of torch's: the two count them differently."""
    return f"GPU-{torch.cuda.get_device_properties(index).uuid}"


def make_deterministic(wanted: bool) -> None:
    """With `wanted`, choose algorithms that give the same bits every time; needed on a GPU, harmless on a CPU."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; cuBLAS asks for it
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(wanted: str, device: torch.device) -> str:
    """auto: bf16 on a GPU that computes in it, else fp32."""
    if wanted != "auto":
        return wanted
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if native else "fp32"


def in_precision(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Compute in this precision where it is safe; weights and results stay as they are."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, PRECISIONS[precision])
