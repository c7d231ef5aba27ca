"""What NVIDIA's driver says of the GPUs, through the library of the extra `gpu`. Loads no torch.

Nothing here raises: without the library, the driver or a GPU there is simply nothing to tell.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tlkit.terminal import compact

Answer = TypeVar("Answer")


PAUSE = 1.0
"""Seconds between two questions to the driver while a bar is drawn."""


@dataclass(frozen=True)
class Gpu:
    """A GPU as it is now. uuid: as the driver names it, with GPU- before. used, total: bytes of its memory, by whatever
    process. busy: percent of the last moments in which it computed."""

    uuid: str
    name: str
    used: int
    total: int
    busy: int

    def use(self) -> str:
        """12.1 of 80.0 GB, 93 %"""
        return f"{compact(self.used)}B of {compact(self.total)}B, {self.busy} %"


def read_gpus() -> list[Gpu]:
    """The GPUs that the driver shows, in its order."""
    return asked(list_gpus) or []


def driver_version() -> str | None:
    """The version of NVIDIA's driver; None if there is none, or no way to ask it."""
    return asked(lambda nvml: text(nvml.nvmlSystemGetDriverVersion()))


def asked(question: Callable[[Any], Answer]) -> Answer | None:
    """The answer to a question to the driver, or None."""
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            return question(pynvml)
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # the library's own errors, and whatever a driver of another version comes to
        return None


def list_gpus(nvml: Any) -> list[Gpu]:
    """All of them, asked through pynvml."""
    return [describe(nvml, nvml.nvmlDeviceGetHandleByIndex(index)) for index in range(nvml.nvmlDeviceGetCount())]


def describe(nvml: Any, handle: Any) -> Gpu:
    """One of them."""
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        text(nvml.nvmlDeviceGetUUID(handle)),
        text(nvml.nvmlDeviceGetName(handle)),
        int(memory.used),
        int(memory.total),
        int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
    )


def text(value: str | bytes) -> str:
    """Older versions of the library answer in bytes."""
    return value.decode() if isinstance(value, bytes) else value


class GpuNote:
    """What stands beside a progress bar: memory and use of some GPUs, asked for once in a while."""

    def __init__(self, uuids: Sequence[str]) -> None:
        self.uuids = uuids
        self.asked_at = -PAUSE
        self.note = ""

    def __call__(self) -> str:
        """12.1 of 80.0 GB, 93 %; empty if nothing is known."""
        if self.uuids and time.monotonic() - self.asked_at >= PAUSE:
            self.note = " | ".join(gpu.use() for gpu in read_gpus() if gpu.uuid in self.uuids)
            self.asked_at = time.monotonic()
            if not self.note:
                self.uuids = ()  # nor will anything be known later
        return self.note
