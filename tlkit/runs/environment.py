"""The environment of a run: versions, device, threads; and warnings where it differs from that of a checkpoint."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping

import torch

from tlkit.distributed.env import local_ranks
from tlkit.terminal import log_status
from tlkit.versions import version

LIBRARIES = ("tlkit", "torch", "torchvision", "timm", "pillow")
LAST_DIGITS = "the result may differ in its last digits from that of a run without an interruption"

EFFECTS = defaultdict(
    lambda: LAST_DIGITS,
    ranks="the result will differ from that of a run without an interruption, because the number of processes changes "
    "how batches are split: sums, dropout, and BatchNorm statistics without --sync-batchnorm",
)
"""The effect of a difference, by name."""


def use_threads(recorded: Mapping[str, object]) -> None:
    """Use as many threads as the run started with, if this machine has the cores: their number decides the order of
    sums, and so the last digits."""
    threads = recorded.get("threads")
    if isinstance(threads, int) and 0 < threads <= max(1, len(os.sched_getaffinity(0)) // local_ranks()):
        torch.set_num_threads(threads)


def libraries() -> dict[str, str | None]:
    """The versions of the libraries that compute."""
    return {name: version(name) for name in LIBRARIES}


def present_environment(device: torch.device, engine: str, ranks: int) -> dict[str, object]:
    """Versions, kind of device, number of threads and of ranks. engine: the library that computes features."""
    runtime = {"onnxruntime": version("onnxruntime")} if engine == "onnxruntime" else {}
    return {**libraries(), **runtime, "device": device.type, "threads": torch.get_num_threads(), "ranks": ranks}


def warn_of_differences(recorded: Mapping[str, object], present: Mapping[str, object]) -> None:
    """Warn of each difference from the environment of a checkpoint, and of its effect."""
    recorded = {"ranks": 1, **recorded}  # checkpoints of version 0.1 have no ranks
    for name in {**present, **recorded}:
        now, before = present.get(name), recorded.get(name)
        if now != before:
            label = "processes" if name == "ranks" else name
            log_status("warning", f"{label}: now {now}, but {before} when the checkpoint was written; {EFFECTS[name]}")
