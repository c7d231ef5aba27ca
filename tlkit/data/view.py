"""Preprocess images with or without augmentation, which depends only on seed, epoch and file content."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Self

from PIL import Image, ImageEnhance

from tlkit.data.decode import Decoded, decode_file
from tlkit.data.header import MAX_PIXELS, Accepted
from tlkit.data.preprocessing import INTERPOLATIONS, Preprocessing


@dataclass(frozen=True)
class View:
    """One preprocessing of images: fixed, or augmented for a seed and epoch.

    augment: "none", or one of AUGMENTATIONS.
    """

    preprocessing: Preprocessing
    max_pixels: int = MAX_PIXELS
    truncated: bool = False
    augment: str = "none"
    seed: int = 0
    epoch: int = 0

    @property
    def cache_id(self) -> str:
        """Tells the features of this view from those of other views of the same image."""
        return f"{self.augment} {self.seed} {self.epoch}" if self.is_random else ""

    @property
    def is_random(self) -> bool:
        """Whether it is augmented, which needs the digest of the file as part of the random seed."""
        return self.augment != "none"

    @property
    def accepted(self) -> Accepted:
        return self.preprocessing.accepted(self.max_pixels, self.truncated)

    def __call__(self, path: str, file: BinaryIO, digest: bytes) -> Decoded:
        """Decode and preprocess an open file to image_size. Raises ImageError."""
        if not self.is_random:
            decoded = decode_file(path, file, self.accepted, self.preprocessing.shortest_side)
            return dataclasses.replace(decoded, image=self.preprocessing(decoded.image))
        # Random crops use as little as a third of the area, so a JPEG must be decoded at a larger scale.
        decoded = decode_file(path, file, self.accepted, 2 * self.preprocessing.shortest_side)
        generator = random.Random(f"{self.seed} {self.epoch} {digest.hex()}")
        augment = AUGMENTATIONS[self.augment]
        return dataclasses.replace(decoded, image=augment(decoded.image, self.preprocessing, generator))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**vars(self), "preprocessing": self.preprocessing.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of to_dict."""
        return cls(**{**values, "preprocessing": Preprocessing.from_dict(values["preprocessing"])})


def light(image: Image.Image, preprocessing: Preprocessing, generator: random.Random) -> Image.Image:
    """Random resized crop of 35 to 100 % of the area and a horizontal flip with probability 0.5."""
    return flip(random_resized_crop(image, preprocessing, generator), generator)


def strong(image: Image.Image, preprocessing: Preprocessing, generator: random.Random) -> Image.Image:
    """light, plus rotation by up to 15 degrees, and brightness, contrast and color jitter of up to 40 %."""
    fill = tuple(round(255 * value) for value in preprocessing.mean)
    view = light(image, preprocessing, generator)
    view = view.rotate(generator.uniform(-15, 15), Image.Resampling.BILINEAR, fillcolor=fill)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        view = enhance(view).enhance(generator.uniform(0.6, 1.4))
    return view


Augment = Callable[[Image.Image, Preprocessing, random.Random], Image.Image]
AUGMENTATIONS: dict[str, Augment] = {"light": light, "strong": strong}


def flip(image: Image.Image, generator: random.Random) -> Image.Image:
    """Flip horizontally with probability 0.5."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else image


def random_resized_crop(image: Image.Image, preprocessing: Preprocessing, generator: random.Random) -> Image.Image:
    """A random crop, resized to the input size (Szegedy et al., "Going deeper with convolutions", 2014)."""
    height, width = preprocessing.image_size
    aspect = width / height * math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
    area = generator.uniform(0.35, 1.0) * image.width * image.height
    crop_width = min(image.width, max(1, round(math.sqrt(area * aspect))))
    crop_height = min(image.height, max(1, round(math.sqrt(area / aspect))))
    left = generator.randint(0, image.width - crop_width)
    top = generator.randint(0, image.height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    return image.resize((width, height), INTERPOLATIONS[preprocessing.interpolation], box=box)
