"""The second run on the same images, and the run after ten were added.

    python benchmarks/second_run.py [--images FOLDER] [--backbone timm/resnet18] [--rounds 3]

Prints the seconds that each run spends on features, from the first image to the last feature, measured inside the
process, and how many images passed the backbone, as the run itself counts them. Each round begins with an empty store.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

from common import SAMPLE, Finished, list_images, ratios, run, spread, table, weights_of
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
"""The command as it is, with a clock around the part that no command prints alone."""

RUNS = ("first run", "second run", "after ten were added")
Figures = tuple[float, float, str]
"""Seconds of the whole command, seconds on features, and what the run counted."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=SAMPLE / "textures")
    parser.add_argument("--backbone", default="timm/resnet18")
    parser.add_argument("--weights", type=Path, help="of the backbone; random weights are made otherwise")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        weights = weights_of(options.backbone, Path(name), options.weights)
        rounds = [three_runs(options, weights, Path(name) / str(number)) for number in range(options.rounds)]
    whole, features, counted = (
        {run: [found[place][column] for found in rounds] for place, run in enumerate(RUNS)} for column in range(3)
    )
    first = features["first run"]
    table(
        (options.backbone, "whole command, s", "on features, s", "% of the first run's", "images, as counted"),
        *(
            (
                name,
                spread(whole[name]),
                spread(features[name], digits=3),
                spread([100 * share for share in ratios(features[name], first)], digits=1),
                counted[name][-1],
            )
            for name in RUNS
        ),
    )


def three_runs(options: argparse.Namespace, weights: Path, folder: Path) -> list[Figures]:
    """One round, on a copy of the images and with a store of its own."""
    data = Path(shutil.copytree(options.images, folder / "data"))
    found = []
    for number, name in enumerate(RUNS):
        if name == "after ten were added":
            add_ten(data)
        flags = ["--backbone", options.backbone, "--weights", weights, "--out", folder / f"run{number}"]
        ended = run([sys.executable, "-c", TIMED, "finetune", data, *flags], cache=folder / "cache")
        found.append(figures(ended))
        print(f"{name}: {found[-1]}", file=sys.stderr, flush=True)
    shutil.rmtree(folder)
    return found


def add_ten(data: Path) -> None:
    """Ten images that were not there: others, turned upside down."""
    for number, path in enumerate(list_images(data)[:10]):
        Image.open(path).convert("RGB").rotate(180).save(path.with_name(f"added{number}.jpg"))


def figures(ended: Finished) -> Figures:
    seconds = re.search(r"seconds on features: ([\d.]+)", ended.err)
    counted = re.search(r"features  (.*)", ended.err)
    assert seconds and counted, ended.err
    return ended.seconds, float(seconds[1]), counted[1]


if __name__ == "__main__":
    main()
