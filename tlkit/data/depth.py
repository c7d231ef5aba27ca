"""Pixels with more than 8 bits per channel -> 8 bits. Pillow keeps them of gray images only, and scales few of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image, ImageFile

from tlkit.data import tiff
from tlkit.data.image_file import ImageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Range = tuple[float, float] | None
"""The values of black and white."""

Values = Any
"""Samples of pixels, an array of numpy [H, W, C] of integers or floats."""

SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""Byte order of 16-bit pixels -> the other one, by Pillow's names."""

LARGEST = {12: 4095, 16: 65535}

DARK = 1 << 14
"""If no value of 16-bit images reaches a quarter of the range, they probably have fewer bits."""


def unused_range(peak: int) -> str:
    """A warning if the largest value of 16-bit images shows that they have fewer bits; else empty."""
    if not 0 < peak < DARK:
        return ""
    white = (1 << peak.bit_length()) - 1
    return (
        f"16-bit images with values of at most {peak:,}, so that they look almost black: "
        f"if white is {white:,}, not 65,535, train with --integer-range 0,{white}"
    )


def has_no_range(image: ImageFile.ImageFile) -> bool:
    """Whether pixels are 32-bit integers or floats. In a PNG or PGM, mode I means 16 bits."""
    return image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM"))


def depth_of(image: ImageFile.ImageFile, page: tiff.Directory | None) -> int:
    """Bits of a channel, before pixels are decoded: 8, 12, 16 or 32. page: of a TIFF."""
    if has_no_range(image):
        return 32
    if page is not None:
        return page.bits if page.bits in LARGEST else 8
    return 16 if image.mode.startswith("I") or ";16" in layout_of(image) or largest_value(image) > 255 else 8


def layout_of(image: ImageFile.ImageFile) -> str:
    """Pillow's name of the channels and bits in the file, before pixels are decoded; empty if unknown."""
    arguments = image.tile[0].args if image.tile else ""
    return arguments if isinstance(arguments, str) else str(arguments[0]) if arguments else ""


def largest_value(image: ImageFile.ImageFile) -> int:
    """The value that a PPM or PGM declares as white, if it is not that of its bits; else 0."""
    if image.format != "PPM" or not image.tile or not isinstance(image.tile[0].args, tuple):
        return 0
    return int(image.tile[0].args[1])


def is_scaled_ppm(image: ImageFile.ImageFile) -> bool:
    """Whether it is a binary PPM or PGM whose white is not the largest value of its bits; Pillow reads it slowly."""
    return image.format == "PPM" and bool(image.tile) and image.tile[0].codec_name == "ppm"


def to_eight_bits(
    path: str, file: BinaryIO, image: ImageFile.ImageFile, page: tiff.Directory | None, ends: Range, depth: int
) -> tuple[Image.Image, int | None]:
    """An opened image as L, RGB or RGBA, and the largest value of 16 bits, if all of them are taken to count.

    ends: the range for this depth. Without it the high byte is kept. NaN becomes black.
    Raises ImageError for a range and channels that cannot be read exactly.
    """
    import numpy as np  # not at module level: decoder processes must start fast

    hidden = image.info.get("transparency")
    if ends is None and image.mode[0] not in "IF" and not isinstance(hidden, tuple) and not is_scaled_ppm(image):
        image.load()
        measured = depth == 16 and image.mode != "CMYK"
        return image, int(np.asarray(image)[..., :3].max()) << 8 | 255 if measured else None
    declared = largest_value(image)
    values = exact_values(path, file, image, page)
    largest = declared or LARGEST.get(depth, 0)
    peak = int(values[..., :3].max()) * 65535 // largest if depth == 16 and ends is None else None
    black, white = ends or (0, largest)
    scaled: NDArray[np.uint8]
    if ends is None and not declared:
        scaled = (values >> (depth - 8)).astype(np.uint8)
    else:
        with np.errstate(all="ignore"):
            exact = (values[..., :3].astype(np.float64) - black) * (255 / (white - black))
        scaled = np.nan_to_num(exact, nan=0).clip(0, 255).round().astype(np.uint8)
        if values.shape[2] == 4:
            scaled = np.concatenate([scaled, (values[..., 3:] >> 8).astype(np.uint8)], axis=2)
    if page is not None and page.first(tiff.PHOTOMETRIC) == tiff.WHITE_IS_ZERO:
        scaled = 255 - scaled
    if hidden is not None:
        opaque = (values != np.array(hidden)).any(axis=2, keepdims=True)
        color = np.repeat(scaled, 3, axis=2) if scaled.shape[2] == 1 else scaled
        scaled = np.concatenate([color, (opaque * 255).astype(np.uint8)], axis=2)
    made = Image.fromarray(scaled[..., 0] if scaled.shape[2] == 1 else scaled)
    made.info.update({name: value for name, value in image.info.items() if name != "transparency"})
    return made, peak


def exact_values(path: str, file: BinaryIO, image: ImageFile.ImageFile, page: tiff.Directory | None) -> Values:
    """All bits of an opened image, [H, W, C]. Raises ImageError for channels that Pillow cannot give exactly."""
    import numpy as np

    if is_scaled_ppm(image):
        return ppm_values(path, file, image)
    if image.mode[0] in "IF":
        values = np.asarray(image)[..., None]
        if image.format == "PPM" and (declared := largest_value(image)):  # Pillow has scaled it to 16 bits
            values = (values * (declared / 65535)).round()
        if not has_no_range(image):
            return values.astype(np.uint16)
        if page is not None and page.is_big_endian and page.first(tiff.COMPRESSION, 1) != 1:
            # libtiff has put the bytes into the order of this machine, and Pillow has swapped them again.
            return values.astype(f"{values.dtype.kind}{page.bits // 8}").byteswap()
        return values
    layout = layout_of(image)
    name, _, bits = layout.partition(";")
    if name not in ("RGB", "RGBX", "RGBA") or not bits.startswith("16") or (page is not None and page.is_planar):
        problem = f"a range of values cannot be applied to 16-bit pixels of this kind ({layout})"
        raise ImageError(path, "unsupported_mode", problem)
    high = np.asarray(image).astype(np.uint16)
    file.seek(0)
    other = Image.open(file, formats=[image.format or ""])
    swapped = layout[:-1] + SWAPPED[layout[-1]]
    other.tile = [
        tile._replace(args=swapped if isinstance(tile.args, str) else (swapped, *(tile.args or ())[1:]))
        for tile in other.tile
    ]
    return high << 8 | np.asarray(other)


def ppm_values(path: str, file: BinaryIO, image: ImageFile.ImageFile) -> Values:
    """The values of a binary PPM or PGM, [H, W, C]. Raises ImageError if it is truncated."""
    import numpy as np

    channels = 3 if image.mode == "RGB" else 1
    kind = np.dtype(">u2" if largest_value(image) > 255 else "u1")
    file.seek(image.tile[0].offset)
    length = image.width * image.height * channels * kind.itemsize
    content = file.read(length)
    if len(content) < length and not ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ImageError(path, "image_truncated", "the image is truncated")
    values = np.frombuffer(content.ljust(length, b"\0"), kind)
    return values.reshape(image.height, image.width, channels)
