"""Peak memory of finetune, evaluate and report with 10 and with 10,000 classes of the same 20,000 images.

python benchmarks/many_classes.py [--images 20000] [--classes 10 10000]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

BOUND = 1.3
"""Most memory with the largest number of classes, as a multiple of that with the smallest."""

BACKBONE = ("--backbone", "timm/test_resnet", "--weights", "none", "--image-size", 32, "--no-onnx")


def write_images(root: Path, images: int, classes: int) -> Path:
    """Images of 16 x 16 pixels, which differ, divided evenly among the classes."""
    generator = np.random.default_rng(0)
    for number in range(images):
        folder = root / f"class {number % classes:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06d}.png")
    return root


def peak(*arguments: object) -> tuple[float, float]:
    """MB of the largest process of a command, and its seconds."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "tlkit", *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    text = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"tlkit {arguments[0]} ended with {os.waitstatus_to_exitcode(status)}:\n{text.decode()[-2000:]}")
    return usage.ru_maxrss / 1024, time.monotonic() - started


def main() -> int:
    """Print a line for each command. Returns 1 if one takes more than BOUND."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--classes", type=int, nargs=2, default=(10, 10_000))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TLKIT_CACHE"] = os.path.join(folder, "cache")
        found = [measured(Path(folder, str(classes)), options.images, classes) for classes in options.classes]
    few, many = options.classes
    print(f"{'MB of':<10}{few:>8,} classes{many:>8,} classes   ratio   s")
    worst = 0.0
    for name in found[0]:
        (small, _), (large, seconds) = (figures[name] for figures in found)
        worst = max(worst, large / small)
        print(f"{name:<10}{small:>16,.0f}{large:>16,.0f}{large / small:>8.2f}{seconds:>6.0f}")
    return int(worst > BOUND)


def measured(work: Path, images: int, classes: int) -> dict[str, tuple[float, float]]:
    """Peak memory and seconds of each command."""
    data, run = write_images(work / "images", images, classes), work / "run"
    commands: dict[str, Sequence[object]] = {
        "finetune": ("finetune", data, *BACKBONE, "--epochs", 2, "--out", run),
        "evaluate": ("evaluate", run, data, "--format", "json"),
        "report": ("report", run),
    }
    found = {}
    for name, arguments in commands.items():
        found[name] = peak(*arguments)
        print(f"{name} with {classes:,} classes: {found[name][0]:,.0f} MB", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
