"""Random views of an image, each a function of (seed, epoch, sample) alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from tlkit.data.decode import decode_image
from tlkit.data.preprocessing import INTERPOLATIONS, Preprocessing

View = Callable[[Image.Image, Preprocessing, random.Random], Image.Image]


def augment(
    path: str, preprocessing: Preprocessing, name: str, seed: int, epoch: int, sample: int
) -> NDArray[np.uint8]:
    """A random view of an image file: uint8 [H, W, 3]. Raises ImageError."""
    generator = random.Random(f"{seed} {epoch} {sample}")
    # Crops take as little as a third of the area, so a reduced JPEG must keep twice as many pixels as for the whole.
    image = decode_image(path, 2 * preprocessing.shortest_side)
    return np.asarray(AUGMENTATIONS[name](image, preprocessing, generator))


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
