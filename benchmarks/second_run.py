"""The second run on the same images, and the run after ten were added.

    python benchmarks/second_run.py [--images FOLDER] [--backbone timm/resnet18] [--rounds 3]

Prints how many images passed the backbone, as the runs count them, and the seconds from the first image to the last,
measured inside the process.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from common import SAMPLE, Finished, list_images, make_weights, run, table
from PIL import Image

TIMED = """
import sys, time
from tlkit.commands.images import Preparation
whole = Preparation.batches_of_vectors
def timed(self):
    began = time.perf_counter()
    try:
        return whole(self)
    finally:
        print(f"seconds on features: {time.perf_counter() - began:.4f}", file=sys.stderr)
Preparation.batches_of_vectors = timed
from tlkit.cli import main
sys.argv[0] = "tlkit"
main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=SAMPLE / "textures" / "train")
    parser.add_argument("--backbone", default="timm/resnet18")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows: dict[str, list[tuple[float, float, str]]] = {"first run": [], "second run": [], "after ten were added": []}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            data = Path(shutil.copytree(options.images, folder / "data"))
            weights = make_weights(options.backbone, folder)
            for number, row in enumerate(rows.values()):
                if number == 2:
                    add_ten(data)
                flags = ["--backbone", options.backbone, "--weights", weights, "--out", folder / f"run{number}"]
                command = [sys.executable, "-c", TIMED, "finetune", data, *flags]
                row.append(figures(run(command, cache=folder / "cache")))
    first = statistics.median(seconds for _, seconds, _ in rows["first run"])
    table(
        (options.backbone, "whole command, s", "on features, s", "of the first run's", "images"),
        *(
            (
                label,
                f"{statistics.median(r[0] for r in found):.2f}",
                f"{statistics.median(r[1] for r in found):.3f}",
                f"{100 * statistics.median(r[1] for r in found) / first:.1f} %",
                found[-1][2],
            )
            for label, found in rows.items()
        ),
    )


def add_ten(data: Path) -> None:
    """Ten images that were not there: others, turned upside down."""
    for number, path in enumerate(list_images(data)[:10]):
        Image.open(path).rotate(180).save(path.with_name(f"new{number}.png"))


def figures(ended: Finished) -> tuple[float, float, str]:
    """Seconds of the whole command, seconds on features, and what was counted."""
    seconds = re.search(r"seconds on features: ([\d.]+)", ended.err)
    counted = re.search(r"features  (.*)", ended.err)
    assert seconds and counted, ended.err
    return ended.seconds, float(seconds[1]), counted[1]


if __name__ == "__main__":
    main()
