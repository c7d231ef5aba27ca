"""What each trial gets of the machines, and what of its options follows from that."""

from __future__ import annotations

import dataclasses
from typing import Any

from tlkit.errors import UsageError
from tlkit.options import TuneOptions
from tlkit.options.tune import cores
from tlkit.terminal import count


def as_in_trials(options: TuneOptions, gpu: float) -> TuneOptions:
    """The options with the device and precision of the trials, which each would choose by what it gets: so vectors are
    computed beforehand as they will be looked up.

    Raises UsageError if they cannot be computed here.
    """
    import torch

    from tlkit.model.inference import choose_precision

    if gpu == 0 and options.device == "cuda":
        raise UsageError("--device cuda", "is not what a trial gets by --gpus-per-trial 0")
    device = "cpu" if gpu == 0 else options.device
    is_here = device == "cpu" or torch.cuda.is_available()
    if not is_here and not all(options.trial(point).feeds_images() for point in options.tried.corners()):
        problem = "needs a GPU on this machine too, as it computes the features for all"
        raise UsageError(f"--gpus-per-trial {gpu:g}", problem, "Use a machine that has one, or --gpus-per-trial 0.")
    changes = {"device": device}
    if is_here and "precision" not in options.tried.dimensions:
        changes["precision"] = choose_precision(options.precision, torch.device("cpu" if device == "cpu" else "cuda"))
    return dataclasses.replace(options, **changes)  # type: ignore[arg-type]


def choose_gpus(options: TuneOptions) -> int:
    """The GPUs that trials may use here. Raises UsageError for a share of what is not here."""
    import torch

    found = 0 if options.device == "cpu" or options.gpus_per_trial == 0 else torch.cuda.device_count()
    if options.cluster is None and (options.gpus_per_trial or 0) > found:
        raise UsageError(
            f"--gpus-per-trial {options.gpus_per_trial:g}", f"is more than the {found} GPUs that there are"
        )
    return found


def gpu_share(options: TuneOptions, gpus: int, cpus: int) -> float:
    """What of a GPU each trial takes: what was asked for, or an equal share of those here."""
    if options.gpus_per_trial is not None:
        return options.gpus_per_trial
    return min(1.0, gpus / max(cores() // cpus, 1)) if options.cluster is None else float(gpus > 0)


def require_resources(ray: Any, options: TuneOptions, resources: dict[str, float]) -> None:
    """Raises UsageError unless some machine of a cluster has what a trial asks for."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, flag, ray_name in (("cpu", "--cpus-per-trial", "CPU"), ("gpu", "--gpus-per-trial", "GPU")):
        most = max((node.get(ray_name, 0.0) for node in nodes), default=0.0)
        if resources[name] > most:
            raise UsageError(f"{flag} {resources[name]:g}", f"is more than any machine of the cluster has, {most:g}")


def where(ray: Any, options: TuneOptions) -> str:
    """What the trials run on, for people."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    total = int(sum(node["Resources"].get("CPU", 0) for node in nodes))
    place = "this machine" if options.cluster is None else f"{count(len(nodes), 'node')} of {options.cluster}"
    return f"{count(total, 'core')} of {place}"
