"""Decoding in processes of their own against threads of this process: what isolation costs.

    python benchmarks/decoders.py FOLDER [--workers 2] [--rounds 5]

Loads all images of a folder for a 224-pixel input, by turns, and prints seconds, the time until the first image of a
pool that has just been started, and how long an image takes alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import closing

from tlkit.data.decoders import Decoder, open_decoder
from tlkit.data.listing import find_images
from tlkit.data.ordered_map import map_in_order
from tlkit.data.preprocessing import Preprocessing
from tlkit.data.view import View

VIEW = View(Preprocessing((224, 224), (256, 256), "center", "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
SIDES = {"threads": 0, "processes": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    paths = list(find_images(options.folder))
    found: dict[str, list[tuple[float, float, float]]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side, processes in SIDES.items():
            with closing(open_decoder(processes)) as decoder:
                found[side].append(measure(decoder, paths, options.workers))
    print(f"{len(paths)} images, {options.workers} workers, median of {options.rounds} rounds (and the range), seconds")
    print(f"{'':10} {'all images':>24} {'first image':>24} {'one image alone':>24}")
    for side, rows in found.items():
        cells = [f"{statistics.median(c):.4f} ({min(c):.4f}-{max(c):.4f})" for c in zip(*rows, strict=True)]
        print(f"{side:10} " + " ".join(f"{cell:>24}" for cell in cells))


def measure(decoder: Decoder, paths: list[str], workers: int) -> tuple[float, float, float]:
    """Seconds for all images, for the first one of all, and for one image when all is warm."""
    began = time.perf_counter()
    decoder.load(paths[0], VIEW)
    first = time.perf_counter() - began
    for _ in map_in_order(lambda path: decoder.load(path, VIEW), paths[: 2 * workers], workers=workers, ahead=64):
        pass
    began = time.perf_counter()
    for _ in map_in_order(lambda path: decoder.load(path, VIEW), paths, workers=workers, ahead=64):
        pass
    everything = time.perf_counter() - began
    began = time.perf_counter()
    for path in paths[:20]:
        decoder.load(path, VIEW)
    return everything, first, (time.perf_counter() - began) / 20


if __name__ == "__main__":
    main()
