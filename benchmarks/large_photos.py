"""12-megapixel JPEGs: loading at a reduced scale against decoding at full size, and what it does to the answers.

    python benchmarks/large_photos.py [--images FOLDER] [--backbone NAME --weights FILE] [--count 50] [--rounds 3]

Photographs are enlarged to 4000 x 3000, given grain, and saved at quality 90. Both sides load them in threads on all
cores, with the preprocessing of a model that was trained on the small ones; it then labels what each side loaded.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import (
    CORES,
    SAMPLE,
    SAMPLE_BACKBONE,
    TLKIT,
    decoded,
    in_turn,
    list_images,
    ratios,
    run,
    spread,
    table,
    weights_of,
)
from PIL import Image, ImageOps

from tlkit.data.decoders import ThisProcess
from tlkit.data.ordered_map import map_in_order
from tlkit.data.view import View
from tlkit.inference.open import open_predictor
from tlkit.inference.predictor import Predictor
from tlkit.options.predict import InferenceOptions

SIZE = (4000, 3000)
GRAIN = 8
"""Standard deviation of the noise, of 255: about 4 MB for each JPEG, as cameras write them."""

Load = Callable[[str], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=SAMPLE / "textures")
    parser.add_argument("--backbone", default=SAMPLE_BACKBONE)
    parser.add_argument("--weights", type=Path, help="of the backbone; the sample backbone has its own, else random")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = train_model(options, folder)
        paths = enlarge(options.images, options.count, folder)
        megabytes = sum(Path(path).stat().st_size for path in paths) / len(paths) / 1e6
        loads = {
            "reduced scale": lambda path: ThisProcess().load(path, View(model.preprocessing)).pixels,
            "full size": lambda path: np.asarray(model.preprocessing(decoded(path))),
        }
        found = in_turn({side: lambda load=load: seconds(load, paths) for side, load in loads.items()}, options.rounds)
        reduced, full = (np.stack(list(load_all(load, paths))) for load in loads.values())
    differences = np.abs(reduced.astype(int) - full).mean(axis=(1, 2, 3))
    same = int((labels(model, reduced) == labels(model, full)).sum())
    remarks = {
        "reduced scale": (f"{differences.mean():.2f} (at most {differences.max():.2f})", f"{same} of {len(paths)}")
    }
    title = f"{len(paths)} JPEGs of 12 megapixels, {megabytes:.1f} MB each"
    table(
        (title, "images/s", "full size = 1", "mean pixel difference, of 255", "same label"),
        *(
            (
                side,
                spread([len(paths) / value for value in values], digits=1),
                spread(ratios(found["full size"], values)),
                *remarks.get(side, ("", "")),
            )
            for side, values in found.items()
        ),
    )


def train_model(options: argparse.Namespace, folder: Path) -> Predictor:
    """A model that knows the images, with its preprocessing."""
    weights = weights_of(options.backbone, folder, options.weights)
    flags = ["--backbone", options.backbone, "--weights", weights, "--image-size", options.image_size]
    run([*TLKIT, "finetune", options.images, *flags, "--out", folder / "run"], cache=folder / "cache")
    return open_predictor(InferenceOptions(model=str(folder / "run"), device="cpu", precision="fp32"))


def enlarge(images: Path, count: int, folder: Path) -> list[str]:
    """Large photographs with grain, as a camera makes them; taken evenly from all images."""
    every = list_images(images)
    paths = []
    for number in range(min(count, len(every))):
        with Image.open(every[number * len(every) // min(count, len(every))]) as small:
            large = ImageOps.fit(small.convert("RGB"), SIZE, Image.Resampling.BICUBIC)
        grain = np.random.default_rng(number).normal(0, GRAIN, (SIZE[1], SIZE[0], 1)).astype(np.float32)
        pixels = np.clip(np.asarray(large) + grain, 0, 255).astype(np.uint8)
        paths.append(str(folder / f"{number:04d}.jpg"))
        Image.fromarray(pixels).save(paths[-1], quality=90)
    return paths


def seconds(load: Load, paths: list[str]) -> float:
    """How long all images take to load."""
    began = time.perf_counter()
    for _ in load_all(load, paths):
        pass
    return time.perf_counter() - began


def load_all(load: Load, paths: list[str]) -> map:
    """Pixels of each image in order, by threads on all cores; few ahead, as full size is 36 MB each."""
    return map_in_order(load, paths, workers=CORES, ahead=2 * CORES)


def labels(model: Predictor, pixels: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, 3] -> labels [N]"""
    parts = np.array_split(pixels, -(-len(pixels) // 32))
    return np.concatenate([model.logits(part).argmax(axis=1) for part in parts])


if __name__ == "__main__":
    main()
