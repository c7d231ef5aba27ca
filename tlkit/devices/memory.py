"""Memory of devices: the peak of a run, and smaller parts after out of memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from tlkit.devices.kinds import kind_of, peak_memory, release_gpu_memory
from tlkit.devices.select import Devices
from tlkit.errors import first_line, is_memory
from tlkit.terminal import compact, log_status


class PeakMemory:
    """The peak memory of each GPU in use, in bytes; a CPU has none."""

    def __init__(self, devices: Devices) -> None:
        self.most = {device: 0 for device in devices.every if kind_of(device).is_gpu}

    def since_asked(self) -> dict[torch.device, int]:
        """The peaks since the previous call, or since the process started."""
        peaks = {device: peak_memory(device) for device in self.most}
        for device, peak in peaks.items():
            self.most[device] = max(self.most[device], peak)
        return peaks

    def say(self) -> None:
        """Log the peaks of the whole run."""
        self.since_asked()
        peaks = ", ".join(f"{device} {compact(most)}B" for device, most in self.most.items())
        if peaks:
            log_status("memory", f"at most {peaks}")


@dataclass
class OutOfMemoryGuard:
    """Out of memory ends the block, not the program. text: the message of the error."""

    found: bool = False
    text: str = "on another rank"

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        # The error itself is not kept: its traceback holds all tensors of the block.
        if isinstance(error, Exception) and is_memory(error):
            self.found, self.text = True, first_line(error)
            return True
        return False


def release_memory() -> None:
    """Release unused memory to the devices."""
    gc.collect()
    release_gpu_memory()


class ChunkedForward:
    """Apply a row-wise function in chunks, which are halved for this and later calls whenever memory runs out.

    on_new_size: called with the new chunk size.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], on_new_size: Callable[[int], object] = lambda size: None
    ) -> None:
        self.function = function
        self.on_new_size = on_new_size
        self.most: int | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        """[B, ...] -> [B, ...]. Raises MemoryError if one row does not fit."""
        before = self.most
        while (found := self.attempt(rows)) is None:
            release_memory()
        if self.most is not None and self.most != before:
            self.on_new_size(self.most)
        return found

    def attempt(self, rows: Tensor) -> Tensor | None:
        """The output for all rows; None if memory ran out, after halving the chunk size."""
        size = max(1, min(self.most or len(rows), len(rows)))
        shortage = OutOfMemoryGuard()
        with shortage:
            parts = [self.function(part) for part in torch.split(rows, size)]
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        if size == 1:
            raise MemoryError(shortage.text)
        self.most = -(-size // 2)
        return None
