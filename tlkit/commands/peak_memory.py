"""The most memory that tensors took on GPUs: since it was last asked for, and in a whole run."""

from __future__ import annotations

import torch

from tlkit.commands.devices import Devices
from tlkit.terminal import compact, say


class PeakMemory:
    """Of each GPU that is worked on, in bytes; of a processor nothing is known."""

    def __init__(self, devices: Devices) -> None:
        self.most = {device: 0 for device in devices.every if device.type == "cuda"}

    def since_asked(self) -> dict[torch.device, int]:
        """The most since this was asked before, or since the process began."""
        peaks = {device: torch.cuda.max_memory_allocated(device) for device in self.most}
        for device, peak in peaks.items():
            self.most[device] = max(self.most[device], peak)
            torch.cuda.reset_peak_memory_stats(device)
        return peaks

    def say(self) -> None:
        """The most in the whole run, for people."""
        self.since_asked()
        if self.most:
            say("memory", f"at most {', '.join(f'{device} {compact(most)}B' for device, most in self.most.items())}")
