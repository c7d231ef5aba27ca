"""What the bits of a run depend on beside its options: recorded in its checkpoints, compared when it goes on."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch

from tlkit.ranks import local_ranks
from tlkit.terminal import say
from tlkit.versions import version

LIBRARIES = ("tlkit", "torch", "torchvision", "timm", "pillow")


def use_threads(recorded: Mapping[str, Any]) -> None:
    """Compute with as many threads as the run began with, where this machine has the cores: their number decides in
    which order sums are taken, and so the last bits."""
    threads = recorded.get("threads")
    if isinstance(threads, int) and 0 < threads <= max(1, len(os.sched_getaffinity(0)) // local_ranks()):
        torch.set_num_threads(threads)


def libraries() -> dict[str, str | None]:
    """The versions of what computes here."""
    return {name: version(name) for name in LIBRARIES}


def present_environment(device: torch.device, engine: str, ranks: int) -> dict[str, Any]:
    """Versions, the kind of device, and the numbers of threads and of ranks. engine: what computes features."""
    runtime = {"onnxruntime": version("onnxruntime")} if engine == "onnxruntime" else {}
    return {**libraries(), **runtime, "device": device.type, "threads": torch.get_num_threads(), "ranks": ranks}


def warn_of_differences(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Say what is not as it was, and what that costs."""
    recorded = {"ranks": 1, **recorded}  # checkpoints of before there were ranks
    for name in {**present, **recorded}:
        here, there = present.get(name), recorded.get(name)
        if here != there:
            say("warning", f"{name}: {here} here, {there} when the checkpoint was written; {COST[name]}")


IN_LAST_DIGITS = "the result may differ in its last digits from that of a run that was never stopped"
BY_RANKS = (
    "the result is no longer bit for bit that of a run that was never stopped: each batch is divided otherwise, and so "
    "are sums, dropout, and the statistics of a BatchNorm that trains without --sync-batchnorm"
)
COST = defaultdict(lambda: IN_LAST_DIGITS, ranks=BY_RANKS)
