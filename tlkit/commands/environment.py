"""What the bits of a run depend on beside its options: recorded in its checkpoints, compared when it goes on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch

from tlkit.terminal import say

LIBRARIES = ("tlkit", "torch", "torchvision", "timm", "pillow")


def use_threads(recorded: Mapping[str, Any]) -> None:
    """Compute with as many threads as the run began with, where this machine has the cores: their number decides in
    which order sums are taken, and so the last bits."""
    threads = recorded.get("threads")
    if isinstance(threads, int) and 0 < threads <= len(os.sched_getaffinity(0)):
        torch.set_num_threads(threads)


def present_environment(device: torch.device) -> dict[str, Any]:
    """Versions, the kind of device, and the number of threads."""
    versions = {name: version(name) for name in LIBRARIES}
    return {**versions, "device": device.type, "threads": torch.get_num_threads()}


def warn_of_differences(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Say what is not as it was, and what that costs."""
    for name, value in present.items():
        if recorded.get(name) != value:
            say(
                "warning",
                f"{name}: {value} here, {recorded.get(name)} when the checkpoint was written; the result may differ in "
                "its last digits from that of a run that was never stopped",
            )
