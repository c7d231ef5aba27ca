"""12-megapixel JPEGs: loading at a reduced scale against decoding at full size, and what it does to the answers.

    python benchmarks/large_photos.py [--images FOLDER] [--count 50] [--rounds 3]

Photographs are enlarged to 4000 x 3000 with noise of their own, saved at quality 90. Both sides load in threads on all
cores, with the preprocessing of a ResNet. The answers are those of a model
trained on the images with the sample backbone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import CORES, SAMPLE, TLKIT, in_turn, list_images, ratio, run, spread, table
from PIL import Image
from tlkit.model.labeller import Labeller

from tlkit.data.batches import map_in_order
from tlkit.data.decode import decode_image
from tlkit.data.preprocessing import Preprocessing

IMAGENET = Preprocessing((224, 224), (256, 256), "center", "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Load = Callable[[str], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=SAMPLE / "textures")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = enlarge(options.images, options.count, folder)
        sides = {"reduced scale": IMAGENET.load, "full size": lambda path: IMAGENET(decode_image(path))}
        found = in_turn({side: lambda load=load: seconds(load, paths) for side, load in sides.items()}, options.rounds)
        table(
            (f"{len(paths)} JPEGs of 12 megapixels", "images/s", "full size = 1"),
            *(
                (
                    side,
                    spread([len(paths) / value for value in values], ""),
                    f"{1 / ratio(values, found['full size']):.2f}",
                )
                for side, values in found.items()
            ),
        )
        differences = [np.abs(a.astype(int) - b).mean() for a, b in pairs(IMAGENET, paths)]
        print(f"mean pixel difference {np.mean(differences):.3f} of 255, of one image {max(differences):.3f} at most")
        print(same_answers(options.images, paths, folder))


def enlarge(images: Path, count: int, folder: Path) -> list[str]:
    """Large photographs with grain, as a camera makes them."""
    chosen = list_images(images)
    paths = []
    for number, path in enumerate(chosen[:: max(1, len(chosen) // count)][:count]):
        large = Image.open(path).convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC)
        grain = np.random.default_rng(number).normal(0, 6, (3000, 4000, 1))
        pixels = np.clip(np.asarray(large) + grain, 0, 255).astype(np.uint8)
        paths.append(str(folder / f"{number:04d}.jpg"))
        Image.fromarray(pixels).save(paths[-1], quality=90)
    return paths


def seconds(load: Load, paths: list[str]) -> float:
    began = time.perf_counter()
    for _ in map_in_order(load, paths, workers=CORES, ahead=64):
        pass
    return time.perf_counter() - began


def pairs(preprocessing: Preprocessing, paths: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each image loaded both ways."""
    return [(preprocessing.load(path), preprocessing(decode_image(path))) for path in paths]


def same_answers(images: Path, paths: list[str], folder: Path) -> str:
    """How often a trained model gives the same label either way."""
    from tlkit.commands.labellers import open_labeller

    flags = ["--backbone", "timm/test_byobnet", "--weights", SAMPLE / "backbone.safetensors", "--out", folder / "run"]
    run([*TLKIT, "finetune", images, *flags], cache=folder / "cache")
    model: Labeller = open_labeller(str(folder / "run"), None, "cpu")
    reduced, full = (np.stack(side) for side in zip(*pairs(model.preprocessing, paths), strict=True))
    same = (model.logits(reduced).argmax(1) == model.logits(full).argmax(1)).sum()
    return f"same label on {same} of {len(paths)} images"


if __name__ == "__main__":
    main()
