"""Pixels with more than 8 bits per channel -> 8 bits. Pillow keeps them of gray images only, and scales few of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageFile

from tlkit.data import tiff
from tlkit.data.header import Accepted, Header
from tlkit.data.image_file import ImageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Values = Any
"""Samples of pixels, an array of numpy [H, W, C] of integers or floats."""

SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""Byte order of 16-bit pixels -> the other one, by Pillow's names."""


def to_eight_bits(header: Header, accepted: Accepted) -> tuple[Image.Image, int | None]:
    """An opened image as L, RGB or RGBA, and the largest value of 16 bits, if all of them are taken to count.

    Without a range for its depth, the high byte is kept. NaN becomes black.
    Raises ImageError for a range and channels that cannot be read exactly.
    """
    import numpy as np  # not at module level: decoder processes must start fast

    image, depth, hidden = header.image, header.depth, header.image.info.get("transparency")
    ends = {16: accepted.integer_range, 32: accepted.float_range}.get(depth)
    if ends is None and image.mode[0] not in "IF" and not isinstance(hidden, tuple) and not header.is_scaled:
        image.load()
        measured = depth == 16 and image.mode != "CMYK"
        return image, int(np.asarray(image)[..., :3].max()) << 8 | 255 if measured else None
    values = exact_values(header)
    largest = header.white or (1 << depth) - 1
    peak = int(values[..., :3].max()) * 65535 // largest if depth == 16 and ends is None else None
    if ends is None and not header.white:
        scaled = (values >> (depth - 8)).astype(np.uint8)
    elif values.dtype.kind == "u":  # by a table: exact values of all pixels would need too much memory
        table = scale(np.arange(1 << 16), ends or (0, largest))
        scaled = np.concatenate([table[values[..., :3]], (values[..., 3:] >> 8).astype(np.uint8)], axis=2)
    else:
        scaled = scale(values, ends or (0, largest))
    if header.page is not None and header.page.first(tiff.PHOTOMETRIC) == tiff.WHITE_IS_ZERO:
        scaled = 255 - scaled
    if hidden is not None:
        opaque = (values != np.array(hidden)).any(axis=2, keepdims=True)
        color = np.repeat(scaled, 3, axis=2) if scaled.shape[2] == 1 else scaled
        scaled = np.concatenate([color, (opaque * 255).astype(np.uint8)], axis=2)
    made = Image.fromarray(scaled[..., 0] if scaled.shape[2] == 1 else scaled)
    made.info.update({name: value for name, value in image.info.items() if name != "transparency"})
    return made, peak


def scale(values: Values, ends: tuple[float, float]) -> NDArray[np.uint8]:
    """Values of any type -> 0 to 255, the ends included. NaN becomes 0."""
    import numpy as np

    black, white = ends
    with np.errstate(all="ignore"):
        exact = (values.astype(np.float64) - black) * (255 / (white - black))
    scaled: NDArray[np.uint8] = np.nan_to_num(exact, nan=0).clip(0, 255).round().astype(np.uint8)
    return scaled


def exact_values(header: Header) -> Values:
    """All bits of an opened image, [H, W, C]. Raises ImageError for channels that Pillow cannot give exactly."""
    import numpy as np

    if header.is_scaled:
        return ppm_values(header)
    image, page, layout = header.image, header.page, header.layout
    if image.mode[0] in "IF":
        values = np.asarray(image)[..., None]
        if header.white:  # of a PGM in words, which Pillow has scaled to 16 bits
            values = (values * (header.white / 65535)).round()
        if not header.has_no_range:
            return values.astype(np.uint16)
        if page is not None and page.is_big_endian and page.first(tiff.COMPRESSION, 1) != 1:
            # libtiff has put the bytes into the order of this machine, and Pillow has swapped them again.
            return values.astype(f"{values.dtype.kind}{page.bits // 8}").byteswap()
        return values
    name, _, bits = layout.partition(";")
    if name not in ("RGB", "RGBX", "RGBA") or not bits.startswith("16") or (page is not None and page.is_planar):
        kind = "separate planes" if page is not None and page.is_planar else layout
        problem = f"--integer-range cannot be applied to 16-bit pixels of this kind ({kind})"
        raise ImageError(header.path, "unsupported_mode", problem)
    high = np.asarray(image).astype(np.uint16)
    header.file.seek(0)
    other = Image.open(header.file, formats=[image.format or ""])
    swapped = layout[:-1] + SWAPPED[layout[-1]]
    other.tile = [
        tile._replace(args=swapped if isinstance(tile.args, str) else (swapped, *(tile.args or ())[1:]))
        for tile in other.tile
    ]
    return high << 8 | np.asarray(other)


def ppm_values(header: Header) -> Values:
    """The values of a binary PPM or PGM, [H, W, C]. Raises ImageError if it is truncated."""
    import numpy as np

    image = header.image
    shape = image.height, image.width, 3 if image.mode == "RGB" else 1
    kind = np.dtype(">u2" if header.white > 255 else "u1")
    header.file.seek(image.tile[0].offset)
    length = image.width * image.height * shape[2] * kind.itemsize
    content = header.file.read(length)
    if len(content) < length and not ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ImageError(header.path, "image_truncated", "the image is truncated")
    return np.frombuffer(content.ljust(length, b"\0"), kind).reshape(shape)
