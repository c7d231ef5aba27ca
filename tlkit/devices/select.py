"""Choose devices and precision, and put models on them."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from tlkit.devices.kinds import DEVICES, gpu, gpu_count, gpu_is_available, gpu_uuid, kind_of
from tlkit.devices.nvml import GpuNote
from tlkit.distributed.env import rank_info
from tlkit.distributed.launch import require_gpu_each
from tlkit.errors import UnavailableError, UsageError
from tlkit.options.devices import GPU, DeviceSpec
from tlkit.terminal import count, show_beside_bars

NAMES = f"auto, cpu, {GPU} or {GPU}:N"


@dataclass(frozen=True)
class Devices:
    """The devices of a model. split_at: the first modules of the later stages with --parallel model, if given."""

    every: tuple[torch.device, ...]
    parallel: str
    split_at: tuple[str, ...]

    @property
    def first(self) -> torch.device:
        """The device of the images, the head, the labels and the loss."""
        return self.every[0]

    def precision(self, wanted: str) -> str:
        """The precision to compute in. Raises UsageError for one that the devices cannot share."""
        kinds = sorted({device.type for device in self.every})
        if len(kinds) == 1:
            return choose_precision(wanted, self.first)
        if wanted not in ("auto", "fp32"):
            raise UsageError(
                f"--precision {wanted}", f"is not possible across {kinds[0]} and {kinds[1]}", "Use --precision fp32."
            )
        return "fp32"

    def data_parallel(self, module: nn.Module) -> nn.Module:
        """A module that shares each batch among all devices with --parallel data; otherwise the module itself."""
        return nn.DataParallel(module, [*self.every]) if self.parallel == "data" else module


def choose_devices(device_spec: DeviceSpec, ranks: int = 1) -> Devices:
    """The requested devices; auto is the first GPU if there is one, with --parallel all of them.

    Raises UsageError for an unknown name, and for several devices in each of several ranks; UnavailableError for a
    device that this machine does not have.
    """
    if ranks > 1 and device_spec.parallel != "none":
        raise UsageError(f"--parallel {device_spec.parallel}", f"needs one process, but there are {ranks}")
    if device_spec.parallel == "none":
        return Devices((choose_device(device_spec.names[0]),), "none", ())
    if device_spec.names != ("auto",):
        return Devices(tuple(map(choose_device, device_spec.names)), device_spec.parallel, device_spec.split_at)
    here = gpu_count()
    wanted = len(device_spec.split_at) + 1 if device_spec.split_at else device_spec.stages or max(here, 2)
    if here < wanted:
        raise UnavailableError(
            f"--parallel {device_spec.parallel}",
            f"needs {wanted} devices, but this machine has {count(here, 'GPU')}",
            f"Name the devices: --device {f'{GPU}:0,cpu' if here else 'cpu,cpu'}" * (device_spec.parallel == "model"),
        )
    return Devices(tuple(gpu(index) for index in range(wanted)), device_spec.parallel, device_spec.split_at)


def choose_device(name: str) -> torch.device:
    """The device of that name; auto is the first GPU if there is one. Each of several ranks has its own GPU.

    Raises UsageError for an unknown name, UnavailableError for a device that this machine does not have.
    """
    if name == "auto":
        name = GPU if gpu_is_available() else "cpu"
    here = rank_info()
    if name == GPU and here is not None:
        require_gpu_each(name, here.local_size)
        return gpu(here.local_rank)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError("--device", f"{name!r} is not a device; expected {NAMES}") from None
    if device.type not in DEVICES:
        raise UsageError("--device", f"{name!r} is not supported; expected {NAMES}")
    if not kind_of(device).has(device.index):
        problem = f"{name} is not available: this machine has {count(gpu_count(), 'GPU')}"
        raise UnavailableError("--device", problem, "Use --device cpu, or --device auto for the best device.")
    return device


def show_gpu_use(devices: Devices) -> None:
    """Let progress bars show memory and use of the GPUs in use."""
    indices = [device.index or 0 for device in dict.fromkeys(devices.every) if kind_of(device).is_gpu]
    if indices:
        show_beside_bars(GpuNote([gpu_uuid(index) for index in indices]))


def make_deterministic(wanted: bool) -> None:
    """Choose deterministic algorithms; needed on a GPU, harmless on a CPU."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; cuBLAS asks for it
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(wanted: str, device: torch.device) -> str:
    """auto: bf16 on a GPU that computes in it, else fp32."""
    if wanted != "auto":
        return wanted
    return "bf16" if kind_of(device).has_fast_bf16() else "fp32"


def in_precision(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """A context that computes in this precision where it is safe; weights and results keep theirs."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, PRECISIONS[precision])
