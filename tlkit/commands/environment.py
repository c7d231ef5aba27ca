"""What the bits of a run depend on beside its options: recorded in its checkpoints, compared when it goes on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from tlkit.terminal import say
from tlkit.versions import version

LIBRARIES = ("tlkit", "torch", "torchvision", "timm", "pillow")


def use_threads(recorded: Mapping[str, Any]) -> None:
    """Compute with as many threads as the run began with, where this machine has the cores: their number decides in
    which order sums are taken, and so the last bits."""
    threads = recorded.get("threads")
    if isinstance(threads, int) and 0 < threads <= len(os.sched_getaffinity(0)):
        torch.set_num_threads(threads)


def present_environment(device: torch.device, engine: str) -> dict[str, Any]:
    """Versions, the kind of device, and the number of threads. engine: what computes features."""
    versions = {name: version(name) for name in (*LIBRARIES, *(["onnxruntime"] if engine == "onnxruntime" else []))}
    return {**versions, "device": device.type, "threads": torch.get_num_threads()}


def warn_of_differences(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Say what is not as it was, and what that costs."""
    for name in {**present, **recorded}:
        here, there = present.get(name), recorded.get(name)
        if here != there:
            say(
                "warning",
                f"{name}: {here} here, {there} when the checkpoint was written; the result may differ in its last "
                "digits from that of a run that was never stopped",
            )
