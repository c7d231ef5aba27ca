"""GPUs as NVIDIA's driver reports them, read through NVML (extra `gpu`). Loads no torch.

Nothing here raises: without the library, the driver or a GPU the results are empty.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

from tlkit.terminal import compact

Value = TypeVar("Value")

PAUSE = 1.0
"""Seconds between two queries of the driver while a progress bar is drawn."""


@dataclass(frozen=True)
class Gpu:
    """The current state of a GPU. uuid: with the prefix GPU-. used, total: bytes of memory, of all processes. busy: its
    utilization in percent."""

    uuid: str
    name: str
    used: int
    total: int
    busy: int

    def use(self) -> str:
        """12.1 of 80.0 GB, 93 %"""
        return f"{compact(self.used)}B of {compact(self.total)}B, {self.busy} %"


def read_gpus() -> list[Gpu]:
    """All GPUs, in the driver's order."""
    return queried(lambda nvml: [describe(nvml, number) for number in range(nvml.nvmlDeviceGetCount())]) or []


def driver_version() -> str | None:
    """The version of NVIDIA's driver; None if it cannot be queried."""
    return queried(lambda nvml: text(nvml.nvmlSystemGetDriverVersion()))


def queried(query: Callable[[ModuleType], Value]) -> Value | None:
    """The result of a query with pynvml; None if it fails."""
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            return query(pynvml)
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # NVML's own errors, and any other of an unknown driver version
        return None


def describe(nvml: ModuleType, number: int) -> Gpu:
    """The GPU of that number, through pynvml."""
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    names = text(nvml.nvmlDeviceGetUUID(handle)), text(nvml.nvmlDeviceGetName(handle))
    return Gpu(*names, int(memory.used), int(memory.total), int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu))


def text(value: str | bytes) -> str:
    """Decode the bytes that older versions of the library return."""
    return value.decode() if isinstance(value, bytes) else value


class GpuNote:
    """Memory and utilization of GPUs, for the end of a progress bar; queried at most once per PAUSE."""

    def __init__(self, uuids: Sequence[str]) -> None:
        self.uuids = uuids
        self.asked_at = -PAUSE
        self.note = ""

    def __call__(self) -> str:
        """12.1 of 80.0 GB, 93 %; empty if unknown."""
        if self.uuids and time.monotonic() - self.asked_at >= PAUSE:
            self.note = " | ".join(gpu.use() for gpu in read_gpus() if gpu.uuid in self.uuids)
            self.asked_at = time.monotonic()
            if not self.note:
                self.uuids = ()  # it will stay unknown
        return self.note
