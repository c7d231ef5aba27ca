"""tlkit doctor: versions, devices, caches, and what is missing."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch

from tlkit.errors import DONE
from tlkit.model.cache_folder import LAYOUT, cache_folder, list_spaces, summarise
from tlkit.options import DoctorOptions
from tlkit.terminal import compact, emit

NEEDED = ("tlkit", "torch", "torchvision", "timm", "pillow", "numpy", "safetensors", "typer", "tqdm")


def doctor(options: DoctorOptions) -> int:
    """Print a line for each thing that a report of a problem should name."""
    for name, text in (*versions(), *devices(), *caches()):
        emit(f"{name}\t{text}\n")
    return DONE


def versions() -> Iterator[tuple[str, str]]:
    """Python, and the libraries that tlkit stands on."""
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for name in NEEDED:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "missing: install tlkit again"


def devices() -> Iterator[tuple[str, str]]:
    """What can compute."""
    yield "cpu", f"{len(os.sched_getaffinity(0))} cores for this process, {torch.get_num_threads()} threads in torch"
    if not torch.cuda.is_available():
        yield "cuda", "no GPU that this torch can use"
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        yield f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, {compact(free)}B of {compact(total)}B free"


def caches() -> Iterator[tuple[str, str]]:
    """What lies on disk between runs."""
    folder = cache_folder()
    spaces = [summarise(space) for space in list_spaces(os.path.join(folder, LAYOUT))]
    nearest = next(parent for parent in parents(folder) if os.path.exists(parent))
    state = "" if os.access(nearest, os.W_OK) else ", not writable: vectors are not kept"
    yield "features", f"{folder}, {compact(sum(s.size for s in spaces))}B in {len(spaces)} spaces{state}"
    yield "weights", torch.hub.get_dir()


def parents(path: str) -> Iterator[str]:
    """A path, and the folders that it lies in, the nearest first."""
    path = os.path.abspath(path)
    while True:
        yield path
        if path == os.path.dirname(path):
            return
        path = os.path.dirname(path)
