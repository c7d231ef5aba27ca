"""Cut the sample images out of photographs that the scikit-image wheel carries (no network needed).

    python sample_data/build_textures.py [FOLDER]

writes `textures/train/<class>/*.jpg`, `textures/val/<class>/*.jpg`, `textures/regions.json` and `unlabelled/*.jpg`
into FOLDER (default: the folder of this script). Each class is one photograph. Its training, validation and
unlabelled crops come from three regions of the photograph that lie at least `GAP` pixels apart, so no pixel is in
two of them; `regions.json` records the regions and the square each crop was turned and cut from.

A crop is turned by any angle, sometimes mirrored, cut at a varied scale, made grey and given a drawn brightness and
contrast: neither colour nor brightness tells the classes apart. The same seed gives the same images.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from PIL import Image

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the photograph

SEED = 2021
GAP = 12  # pixels of the photograph between any two regions of it, at least
CROP_SIDE = 112  # pixels
JPEG_QUALITY = 85
COUNTS = {"train": 40, "val": 20, "unlabelled": 1}  # crops of each class
BRIGHTNESS = (95.0, 160.0)  # the mean of a crop is drawn from this range
CONTRAST = (25.0, 48.0)  # and its standard deviation from this one


@dataclass(frozen=True)
class Photograph:
    """One class: a photograph, its licence, the side of the squares cut from it and its three regions."""

    name: str
    file: str
    licence: str
    sides: tuple[int, int]
    regions: Mapping[str, Box]


THREE_PARTS = {"train": (0, 0, 512, 304), "val": (0, 320, 304, 512), "unlabelled": (320, 320, 512, 512)}

PHOTOGRAPHS = (
    Photograph("brick", "brick.png", "CC0 1.0", (44, 100), THREE_PARTS),
    Photograph(
        "galaxies",
        "hubble_deep_field.jpg",
        "public domain (NASA)",
        (66, 150),
        {"train": (0, 0, 1000, 560), "val": (0, 580, 600, 872), "unlabelled": (620, 580, 1000, 872)},
    ),
    Photograph("grass", "grass.png", "CC0 1.0", (44, 100), THREE_PARTS),
    Photograph("gravel", "gravel.png", "CC0 1.0", (44, 100), THREE_PARTS),
    Photograph(
        "retina",
        "retina.jpg",
        "CC0 1.0",
        (88, 200),
        {"train": (240, 220, 1170, 760), "val": (260, 800, 760, 1180), "unlabelled": (800, 800, 1160, 1180)},
    ),
)


def draw_square(region: Box, sides: tuple[int, int], rng: np.random.Generator) -> tuple[Box, int]:
    """Draw a square inside `region` with room to turn a crop of the returned side in it by any angle."""
    left, top, right, bottom = region
    side = int(rng.integers(sides[0], sides[1] + 1))
    outer = math.ceil(side * math.sqrt(2)) + 2
    x = int(rng.integers(left, right - outer + 1))
    y = int(rng.integers(top, bottom - outer + 1))
    return (x, y, x + outer, y + outer), side


def cut(photograph: Image.Image, square: Box, side: int, rng: np.random.Generator) -> Image.Image:
    """Turn the square, cut the crop from its middle, and give it a drawn brightness and contrast."""
    turned = photograph.crop(square).rotate(rng.uniform(0, 360), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        turned = turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    margin = (turned.width - side) / 2
    middle = (margin, margin, margin + side, margin + side)
    crop = turned.resize((CROP_SIDE, CROP_SIDE), Image.Resampling.BICUBIC, box=middle)
    pixels = np.asarray(crop, dtype=np.float64)
    pixels = (pixels - pixels.mean()) / max(pixels.std(), 1.0)
    pixels = pixels * rng.uniform(*CONTRAST) + rng.uniform(*BRIGHTNESS)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def cut_region(source: Photograph, part: str, rng: np.random.Generator) -> list[tuple[Box, Image.Image]]:
    """Return the crops of one region of a photograph, each with the square it came from."""
    with Image.open(photograph_path(source)) as opened:
        photograph = opened.convert("L")
    crops = []
    for _ in range(COUNTS[part]):
        square, side = draw_square(source.regions[part], source.sides, rng)
        crops.append((square, cut(photograph, square, side, rng)))
    return crops


def photograph_path(source: Photograph) -> Path:
    """Where the installed scikit-image keeps the photograph."""
    return Path(skimage.__file__).parent / "data" / source.file


def describe(source: Photograph) -> dict[str, Any]:
    """What `regions.json` says of a photograph, less the crops."""
    digest = hashlib.sha256(photograph_path(source).read_bytes()).hexdigest()
    regions = {part: list(box) for part, box in source.regions.items()}
    return {"file": source.file, "sha256": digest, "licence": source.licence, "regions": regions, "crops": {}}


def save(image: Image.Image, path: Path) -> None:
    """Write one crop as a JPEG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=JPEG_QUALITY)


def build(folder: Path) -> None:
    """Write the whole image folder, its record and the unlabelled images."""
    for name in ("textures", "unlabelled"):
        shutil.rmtree(folder / name, ignore_errors=True)
    rng = np.random.default_rng(SEED)
    unlabelled_numbers = rng.permutation(len(PHOTOGRAPHS)) + 1  # file names that do not give the class away
    record: dict[str, Any] = {}
    for source, number in zip(PHOTOGRAPHS, unlabelled_numbers, strict=True):
        record[source.name] = describe(source)
        for part in COUNTS:
            for index, (square, crop) in enumerate(cut_region(source, part, rng)):
                path = f"textures/{part}/{source.name}/{source.name}_{index:02d}.jpg"
                if part == "unlabelled":
                    path = f"unlabelled/image_{number}.jpg"
                save(crop, folder / path)
                record[source.name]["crops"][path] = list(square)
    (folder / "textures" / "regions.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description="Cut the sample textures out of scikit-image's photographs.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    build(parser.parse_args().folder)


if __name__ == "__main__":
    main()
