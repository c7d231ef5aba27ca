"""Random views of an image, each a function of the seed, the epoch and the content of its file alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageEnhance

from tlkit.data.decode import decode_file, file_digest, open_regular
from tlkit.data.preprocessing import INTERPOLATIONS, Pixels, Preprocessing

View = Callable[[Image.Image, Preprocessing, random.Random], Image.Image]


@dataclass(frozen=True)
class Augmentation:
    """kind: one of AUGMENTATIONS."""

    kind: str
    preprocessing: Preprocessing
    seed: int

    def load(self, path: str, epoch: int) -> Pixels:
        """The view of an image in an epoch: uint8 [H, W, 3]. Raises ImageError."""
        with open_regular(path) as file:
            return self.load_file(path, file, file_digest(path, file), epoch)

    def load_file(self, path: str, file: BinaryIO, digest: bytes, epoch: int) -> Pixels:
        """The same of a file that is open at its beginning; digest: what file_digest gives."""
        # Crops take as little as a third of the area, so a reduced JPEG must keep more pixels than for the whole.
        image = decode_file(path, file, 2 * self.preprocessing.shortest_side)
        generator = random.Random(f"{self.seed} {epoch} {digest.hex()}")
        return np.asarray(AUGMENTATIONS[self.kind](image, self.preprocessing, generator))


def light(image: Image.Image, preprocessing: Preprocessing, generator: random.Random) -> Image.Image:
    """A crop of 35 to 100 % of the area, a little stretched, and a left-right flip every other time."""
    return flip(random_resized_crop(image, preprocessing, generator), generator)


def strong(image: Image.Image, preprocessing: Preprocessing, generator: random.Random) -> Image.Image:
    """As light, and turned by up to 15 degrees, with brightness, contrast and colour changed by up to 40 %."""
    fill = tuple(round(255 * value) for value in preprocessing.mean)
    view = light(image, preprocessing, generator)
    view = view.rotate(generator.uniform(-15, 15), Image.Resampling.BILINEAR, fillcolor=fill)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        view = enhance(view).enhance(generator.uniform(0.6, 1.4))
    return view


AUGMENTATIONS: dict[str, View] = {"light": light, "strong": strong}


def flip(image: Image.Image, generator: random.Random) -> Image.Image:
    """Mirror left to right every other time."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else image


def random_resized_crop(image: Image.Image, preprocessing: Preprocessing, generator: random.Random) -> Image.Image:
    """A random part of an image, resized to the input size (Szegedy et al., "Going deeper with convolutions", 2014)."""
    height, width = preprocessing.image_size
    aspect = width / height * math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
    area = generator.uniform(0.35, 1.0) * image.width * image.height
    crop_width = min(image.width, max(1, round(math.sqrt(area * aspect))))
    crop_height = min(image.height, max(1, round(math.sqrt(area / aspect))))
    left = generator.randint(0, image.width - crop_width)
    top = generator.randint(0, image.height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    return image.resize((width, height), INTERPOLATIONS[preprocessing.interpolation], box=box)
