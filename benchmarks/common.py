"""Shared code of the benchmarks: whole commands timed, rounds and their medians, weights made, tables printed."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLE = REPOSITORY / "sample_data"
RIVALS = REPOSITORY / "benchmarks" / "rivals"
TLKIT = [sys.executable, "-m", "tlkit"]
CORES = len(os.sched_getaffinity(0))
SAMPLE_BACKBONE = "timm/test_byobnet"
SAMPLE_WEIGHTS = SAMPLE / "backbone.safetensors"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Suffixes that torchvision's ImageFolder takes; tlkit goes by content."""

sys.path.insert(0, str(REPOSITORY))  # what is measured is the tlkit beside this file, whichever is installed


@dataclass(frozen=True)
class Finished:
    """A process that ended well. memory: its largest resident set, in bytes."""

    seconds: float
    memory: int
    out: str
    err: str


def environment(cache: Path | None = None) -> dict[str, str]:
    """The environment of a measured process: this repository's tlkit, no GPU, and the feature store to use."""
    store = {"TLKIT_CACHE": str(cache)} if cache else {}
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": "", **store}


def run(command: Sequence[object], cache: Path | None = None) -> Finished:
    """Run a whole command, start-up included. cache: as in environment. Raises RuntimeError if it fails."""
    words = list(map(str, command))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        with subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment(cache)
        ) as process:
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        texts = [file.read().decode(errors="replace") for file in (out, err)]
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}:\n{texts[1]}")
    return Finished(seconds, usage.ru_maxrss * 1024, *texts)


def decoded(path: str, shortest_side: int | None = None) -> Image.Image:
    """An image as tlkit decodes it. shortest_side: as in tlkit.data.decode.decode_file."""
    from tlkit.data.decode import decode_file
    from tlkit.data.header import Accepted
    from tlkit.data.image_file import open_regular

    with open_regular(path) as file:
        return decode_file(path, file, Accepted(), shortest_side).image


def in_turn(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each side gives in every round; the sides take turns, so that all see the same machine."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, side in sides.items():
            found[name].append(side())
            print(f"round {number + 1}: {name}: {found[name][-1]:.2f}", file=sys.stderr, flush=True)
    return found


def spread(values: Sequence[float], unit: str = "", digits: int = 2) -> str:
    """The median, with the smallest and the largest where there are several: 12.30 s (12.10-12.90)."""
    median = f"{statistics.median(values):,.{digits}f}{' ' * bool(unit)}{unit}"
    return median if len(values) == 1 else f"{median} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def ratios(values: Sequence[float], references: Sequence[float]) -> list[float]:
    """How many times larger, round by round: what a busy machine does to both sides of a round cancels out."""
    return [value / reference for value, reference in zip(values, references, strict=True)]


def table(*rows: Sequence[object]) -> None:
    """Print rows as a Markdown table with aligned columns; the first names the columns."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    head, *rest = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    print(head, "|" + "|".join("-" * (width + 2) for width in widths) + "|", *rest, sep="\n", flush=True)


def weights_of(backbone: str, folder: Path, given: Path | None = None) -> Path:
    """The weights that all sides load: a given file, else the sample backbone's own, else random ones made here."""
    if given is not None:
        return given.resolve()
    return SAMPLE_WEIGHTS if backbone == SAMPLE_BACKBONE else make_weights(backbone, folder)


def make_weights(backbone: str, folder: Path) -> Path:
    """Random weights of a timm/ or torchvision/ backbone: they cost what trained ones cost."""
    import timm
    import torch
    import torchvision
    from safetensors.torch import save_file

    source, _, name = backbone.partition("/")
    torch.manual_seed(0)
    network = timm.create_model(name) if source == "timm" else torchvision.models.get_model(name)
    path = folder / f"{source}-{name}.safetensors"
    save_file(network.state_dict(), path)
    return path


def list_images(folder: Path) -> list[Path]:
    """All images below a folder of class folders."""
    from tlkit.data.listing import find_images

    return [Path(path) for path in find_images(str(folder))]


def link(image: Path | str, folder: Path, number: int) -> Path:
    """A numbered link to an image, with a suffix that everyone takes for one."""
    suffix = Path(image).suffix
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{number:07d}{suffix if suffix.lower() in SUFFIXES else '.jpg'}"
    target.symlink_to(os.path.abspath(image))
    return target


def divide(images: Path, folder: Path) -> Path:
    """A folder with train/ and val/ of links to the images of class folders: the division that tlkit makes."""
    from tlkit.data.class_folders import read_dataset

    dataset = read_dataset(str(images))
    for part, samples in (("train", dataset.train), ("val", dataset.val)):
        for number, sample in enumerate(samples):
            link(sample.path, folder / part / dataset.classes[sample.label], number)
    return folder
