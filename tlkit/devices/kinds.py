"""The kinds of devices in one table: everything that differs between a CPU and a GPU.

The name of a kind is also that of torch; modules that load no torch have it from
options.devices.GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import Tensor

from tlkit.options.devices import GPU


class DeviceKind:
    """A CPU, and what other kinds replace.

    extraction_batch: images that pass a frozen backbone together; fixed, so that features are bit-identical in every
    run. Larger batches exceed a CPU's cache, smaller ones leave a GPU idle. largest_batch: for --batch-size auto.
    A CPU gains nothing from larger batches; on a GPU they mean fewer steps, which train worse.
    """

    name = "cpu"
    extraction_batch = 16
    largest_batch = 16
    is_gpu = False

    def count(self) -> int:
        """The devices of this machine."""
        return 1

    def has(self, index: int | None) -> bool:
        """Whether the device of that number exists."""
        return True

    def has_fast_bf16(self) -> bool:
        """Whether it computes in bf16 by hardware."""
        return False

    def from_host(self, batch: Tensor) -> Tensor:
        """A batch in the memory from which it is copied fastest to the device."""
        return batch

    def random_devices(self, device: torch.device) -> list[torch.device]:
        """The devices whose random numbers torch.random.fork_rng has to restore."""
        return []

    def measured_use(self, device: torch.device) -> dict[str, float]:
        """gpu_use: the percentage of the last moments in which a GPU computed, where its driver says so."""
        return {}


class Cuda(DeviceKind):
    """NVIDIA GPUs."""

    name = GPU
    extraction_batch = 64
    largest_batch = 256
    is_gpu = True

    def count(self) -> int:
        return torch.cuda.device_count()

    def has(self, index: int | None) -> bool:
        return (index or 0) < self.count()

    def has_fast_bf16(self) -> bool:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))

    def from_host(self, batch: Tensor) -> Tensor:
        return batch.pin_memory()

    def random_devices(self, device: torch.device) -> list[torch.device]:
        return [device]

    def measured_use(self, device: torch.device) -> dict[str, float]:
        with suppress(Exception):  # the library is missing, or the driver fails
            return {"gpu_use": torch.cuda.utilization(device)}
        return {}


DEVICES: dict[str, DeviceKind] = {kind.name: kind for kind in (DeviceKind(), Cuda())}
"""By the name of torch's device type."""


def kind_of(device: torch.device) -> DeviceKind:
    """The kind of a device."""
    return DEVICES[device.type]


def gpu_is_available() -> bool:
    """Whether torch can use a GPU of this machine."""
    return torch.cuda.is_available()


def gpu_count() -> int:
    """The GPUs of this machine."""
    return DEVICES[GPU].count()


def gpu(index: int) -> torch.device:
    """The GPU of that number."""
    return torch.device(GPU, index)


def started_gpus() -> bool:
    """Whether this process has used a GPU, so that there is memory to release and there are generators to seed."""
    return torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]


def seed_gpus(seed: int) -> None:
    """Seed the random numbers of all GPUs that this process uses."""
    if started_gpus():
        torch.cuda.manual_seed_all(seed)


def release_gpu_memory() -> None:
    """Give unused memory back to the GPUs."""
    if started_gpus():
        torch.cuda.empty_cache()


def peak_memory(device: torch.device) -> int:
    """Peak bytes of tensors on a GPU since the previous call; resets the peak."""
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return peak


def gpu_uuid(index: int) -> str:
    """The driver's name of a GPU; driver and torch number them differently."""
    return f"GPU-{torch.cuda.get_device_properties(index).uuid}"


def cuda_version() -> str | None:
    """The CUDA version that torch is built for."""
    return torch.version.cuda


def named_gpus() -> Iterator[tuple[int, str, str, int, int]]:
    """Number, device name, product name, free and total bytes of each GPU."""
    for index in range(gpu_count()):
        free, total = torch.cuda.mem_get_info(index)
        yield index, f"{GPU}:{index}", torch.cuda.get_device_name(index), free, total
