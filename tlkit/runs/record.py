"""What a run writes down of itself, beside its checkpoints: options, images, and how it ends."""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch

from tlkit.data.bad_images import write_skipped
from tlkit.data.folder import Dataset
from tlkit.data.scan import describe
from tlkit.distributed.env import local_ranks
from tlkit.errors import LostRankError, ResourceError, TlkitError, to_tlkit_error
from tlkit.features.backend import Backend
from tlkit.files import artifact
from tlkit.files.atomic import write_json_atomically
from tlkit.files.run_folder import RunFolder
from tlkit.interruption import Interrupted
from tlkit.model.files import CHECKPOINT_FORMAT
from tlkit.options import FinetuneOptions
from tlkit.terminal import log_status
from tlkit.training.loop import NonFiniteLossError
from tlkit.training.state import TrainingState
from tlkit.versions import version


def begin(run: RunFolder, remembered: Mapping[str, Any], past: Mapping[str, Mapping[str, Any]]) -> None:
    """Make a folder a run that can be resumed, whenever it is stopped."""
    for file, content in past.items():
        artifact.write_artifact(file, CHECKPOINT_FORMAT, content)
    write_json_atomically(run.options_file, remembered)


def show_running(run: RunFolder, state: TrainingState) -> None:
    """What scripts see of a run that goes on."""
    run.write_status("running", **state.where())
    if state.history:
        run.write_history(state.history)


def split_digest(dataset: Dataset) -> str:
    """What tells divisions of images apart."""
    return artifact.digest(dataset.to_split())


def with_engine(
    options: FinetuneOptions, engine: Backend, run: RunFolder, remembered: dict[str, Any], fresh: bool
) -> FinetuneOptions:
    """The options with what computes features, which are remembered before the first is computed."""
    chosen = dataclasses.replace(options, engine=engine)
    remembered["resolved"] = chosen.to_dict()
    if fresh:
        write_json_atomically(run.options_file, remembered)
    return chosen


def write_down_images(run: RunFolder, dataset: Dataset, model: str, environment: Mapping[str, Any]) -> None:
    """Which image is where, which are left out, and, when a run begins, what was found of them."""
    if not os.path.exists(run.about_file):
        found = {"data": describe(dataset), "warnings": list(dataset.warnings), "model": model}
        write_json_atomically(run.about_file, {**found, "environment": dict(environment)})
    write_json_atomically(run.split_file, dataset.to_split())
    if dataset.skipped:
        write_skipped(run, dataset.skipped)


@contextmanager
def recorded_in_status(run: RunFolder, options: FinetuneOptions, state: TrainingState) -> Iterator[None]:
    """Write into status.json how the block fails or is stopped, if that can be written; the error itself goes on."""
    try:
        yield
    except Exception as error:
        known = to_tlkit_error(error)
        of_memory = isinstance(known, ResourceError) and not isinstance(known, LostRankError) and known is not error
        if of_memory:
            known = ResourceError(
                known.subject,
                f"{known.problem} at --batch-size {options.batch_size}",
                "Try a smaller --image-size, or --gradient-checkpointing, in a new run; or, with more memory: "
                f"tlkit resume {run.path}",
            )
        named = {"code": error.code, "files": error.files} if isinstance(error, NonFiniteLossError) else {}
        with suppress(TlkitError):
            run.write_status("failed", exit_code=known.exit_code, error=str(known), **named, **state.where())
        if of_memory:
            raise known from error
        raise
    except Interrupted as interrupted:
        with suppress(TlkitError):
            run.write_status("interrupted", exit_code=128 + interrupted.number, **state.where())
        log_status("stopped", f"go on with: tlkit resume {run.path}")
        raise


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
            log_status("warning", f"{name}: {here} here, {there} when the checkpoint was written; {COST[name]}")


IN_LAST_DIGITS = "the result may differ in its last digits from that of a run that was never stopped"


BY_RANKS = (
    "the result is no longer bit for bit that of a run that was never stopped: each batch is divided otherwise, and so "
    "are sums, dropout, and the statistics of a BatchNorm that trains without --sync-batchnorm"
)


COST = defaultdict(lambda: IN_LAST_DIGITS, ranks=BY_RANKS)
