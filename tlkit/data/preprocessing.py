"""Resize and crop exactly like the evaluation transforms of timm and torchvision."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from PIL import Image

from tlkit.data.header import MAX_PIXELS, Accepted, Range

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "hamming": Image.Resampling.HAMMING,
    "box": Image.Resampling.BOX,
}

CROP_MODES = ("center", "squash", "border")

LARGEST_SIDE = 4096
"""Largest input side of a backbone, in pixels."""


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop, normalize.

    image_size: (height, width) of the result. resize: (height, width) to resize to before the crop.
    crop_mode: "center" keeps the aspect ratio (the shorter side becomes resize), "squash" does not, "border" fits the
    longer side and pads with the mean. mean, std: per channel, for pixels from 0 to 1.
    more_formats, float_range, integer_range: of the training images, see decode.Accepted.
    """

    image_size: tuple[int, int]
    resize: tuple[int, int]
    crop_mode: str
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    more_formats: tuple[str, ...] = ()
    float_range: Range = None
    integer_range: Range = None

    @classmethod
    def from_timm_config(cls, config: Mapping[str, Any]) -> Self:
        """From what timm.data.resolve_model_data_config returns; see timm.data.transforms_factory."""
        _, height, width = config["input_size"]
        interpolation = config["interpolation"]
        return cls(
            image_size=(height, width),
            resize=(math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"])),
            crop_mode=config["crop_mode"],
            interpolation="bilinear" if interpolation == "random" else interpolation,
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )

    @classmethod
    def from_torchvision_transforms(cls, preset: Any) -> Self:
        """From the transforms of torchvision weights (torchvision.transforms._presets.ImageClassification)."""
        crop, resize = preset.crop_size[0], preset.resize_size[0]
        return cls(
            image_size=(crop, crop),
            resize=(resize, resize),
            crop_mode="center",
            interpolation=preset.interpolation.value,
            mean=tuple(preset.mean),
            std=tuple(preset.std),
        )

    def with_image_size(self, side: int) -> Self:
        """The same for another square input size, with the same crop fraction."""
        share = self.resize[0] / self.image_size[0]
        resize = math.floor(side * share + 0.5)
        return dataclasses.replace(self, image_size=(side, side), resize=(resize, resize))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of to_dict. Raises TypeError or ValueError for invalid values."""
        known: dict[str, Any] = {n: tuple(v) if isinstance(v, (list, tuple)) else v for n, v in values.items()}
        made = cls(**known)
        made.require_valid()
        return made

    def require_valid(self) -> None:
        """Raises TypeError or ValueError for invalid sizes and numbers, which a model file could contain."""
        sides = (*self.image_size, *self.resize)
        if len(sides) != 4 or any(type(side) is not int for side in sides):
            raise TypeError("image_size and resize must be two integers each")
        if not all(1 <= side <= LARGEST_SIDE for side in self.image_size) or max(sides) > 4 * max(self.image_size):
            raise ValueError("image_size or resize is too small or too large")
        numbers = (*self.mean, *self.std)
        if (len(self.mean), len(self.std)) != (3, 3) or not all(math.isfinite(number) for number in numbers):
            raise ValueError("mean and std must be three numbers each")
        if min(self.resize) < 1 or self.crop_mode not in CROP_MODES or self.interpolation not in INTERPOLATIONS:
            raise ValueError("resize, crop_mode or interpolation is invalid")
        self.accepted()  # validates the formats

    @property
    def shortest_side(self) -> int:
        """Minimum shorter side of a JPEG decoded at reduced scale: twice the resize target."""
        return 2 * max(self.resize)

    def accepted(self, max_pixels: int = MAX_PIXELS, truncated: bool = False) -> Accepted:
        """Limits and formats of accepted images."""
        return Accepted(max_pixels, self.more_formats, self.float_range, truncated, self.integer_range)

    def __call__(self, image: Image.Image) -> Image.Image:
        """Resize and crop an RGB image to image_size."""
        if self.crop_mode == "center":
            image = limit_aspect_ratio(image)
        resample = INTERPOLATIONS[self.interpolation]
        image = image.resize(self._resized(image.width, image.height), resample)
        fill = tuple(round(255 * value) for value in self.mean) if self.crop_mode == "border" else (0, 0, 0)
        return center_crop(image, self.image_size, fill)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) to resize an image of that size to."""
        target_height, target_width = self.resize
        if self.crop_mode == "squash":
            return target_width, target_height
        if self.crop_mode == "border" or target_height != target_width:
            ratios = height / target_height, width / target_width
            # timm rounds here; torchvision, below, truncates.
            ratio = max(ratios) if self.crop_mode == "border" else min(ratios)
            return max(1, round(width / ratio)), max(1, round(height / ratio))
        if width <= height:
            return target_width, int(target_width * height / width)
        return int(target_height * width / height), target_height


def limit_aspect_ratio(image: Image.Image, longest: int = 16) -> Image.Image:
    """Crop a very long image to `longest` times its shorter side, around its center.

    The center crop would remove the ends anyway, but before it, resizing 1 x 5000 pixels by the shorter side
    would create millions of pixels.
    """
    limit = longest * min(image.size)
    width, height = min(image.width, limit), min(image.height, limit)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def center_crop(image: Image.Image, size: tuple[int, int], fill: tuple[int, ...]) -> Image.Image:
    """Crop (height, width) from the center, padding smaller images, with torchvision's rounding."""
    height, width = size
    if image.width < width or image.height < height:
        padded = Image.new("RGB", (max(image.width, width), max(image.height, height)), fill)
        padded.paste(image, (max(0, width - image.width) // 2, max(0, height - image.height) // 2))
        image = padded
    left = int(round((image.width - width) / 2.0))
    top = int(round((image.height - height) / 2.0))
    return image.crop((left, top, left + width, top + height))
