"""An open file -> RGB pixels: the one place where an image is decoded, so that prediction sees what training saw."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image, ImageFile, ImageOps

from tlkit.data.formats import (
    FORMATS,
    MORE_FORMATS,
    NOT_ACCEPTED,
    SEVERAL_FRAMES,
    SIGNATURE_BYTES,
    has_end,
    image_format,
)
from tlkit.data.image_file import ImageError, is_refusal, reading

MAX_PIXELS = 64_000_000

BACKGROUND = (255, 255, 255)
"""Color behind transparent pixels."""


# Pillow warns about unusual but readable files (a palette with transparency, a broken EXIF block) and has its own pixel
# limit. Both are handled here, so the warnings would only confuse the user.
warnings.filterwarnings("ignore", module=r"PIL\.")


Image.MAX_IMAGE_PIXELS = None


assert not ImageFile.LOAD_TRUNCATED_IMAGES, "a truncated image must be an error"


@dataclass(frozen=True)
class Accepted:
    """Limits and formats of accepted images. Raises ValueError for invalid values, which a model file could contain.

    more_formats: from MORE_FORMATS, in addition to FORMATS. float_range: the values of 32-bit pixels that become
    black and white; without it such images are refused. truncated: accept truncated images.
    """

    max_pixels: int = MAX_PIXELS
    more_formats: tuple[str, ...] = ()
    float_range: tuple[float, float] | None = None
    truncated: bool = False

    def __post_init__(self) -> None:
        if not set(self.more_formats) <= set(MORE_FORMATS):
            raise ValueError(f"expected formats from {', '.join(MORE_FORMATS)}, not {self.more_formats}")
        if self.float_range is not None:
            black, white = map(float, self.float_range)
            if not (math.isfinite(black) and math.isfinite(white) and black != white):
                raise ValueError(f"{self.float_range} is not a range")


@dataclass(frozen=True)
class ImageInfo:
    """Information from a file header. frames: number of frames or pages."""

    format: str
    mode: str
    width: int
    height: int
    frames: int


@dataclass(frozen=True)
class Decoded:
    """The first frame of a file as RGB. degraded: the file is truncated, and missing pixels are filled in."""

    image: Image.Image
    frames: int
    degraded: bool


def decode_file(path: str, file: BinaryIO, accepted: Accepted, shortest_side: int | None = None) -> Decoded:
    """Decode an open file to RGB: EXIF orientation applied, transparency on white, 16 bits scaled to 8.

    shortest_side: a large JPEG may be decoded at a reduced scale if its shorter side keeps at least this many pixels.
    Only the first frame is decoded. Raises ImageError.
    """
    try:
        with reading(path):
            return decode_complete(path, file, accepted, shortest_side)
    except ImageError as error:
        if error.code != "image_truncated" or not accepted.truncated:
            raise
    with reading(path), allowing_truncation():
        file.seek(0)
        image = decode_complete(path, file, accepted, shortest_side)
    return Decoded(image.image, image.frames, degraded=True)


def decode_bytes(name: str, content: bytes, accepted: Accepted, shortest_side: int | None = None) -> Decoded:
    """Like decode_file, for the bytes of a file. Raises ImageError."""
    return decode_file(name, io.BytesIO(content), accepted, shortest_side)


def decode_complete(path: str, file: BinaryIO, accepted: Accepted, shortest_side: int | None) -> Decoded:
    """Like decode_file, for a file that is not truncated."""
    image = open_image(path, file, accepted)
    check_mode(path, image, accepted)
    try:
        frames = frames_of(image)
        if shortest_side is not None and image.format in ("JPEG", "MPO"):
            scale = shortest_side / min(image.size)
            if scale < 1:
                image.draft(None, (max(1, int(image.width * scale)), max(1, int(image.height * scale))))
        image.load()
        return Decoded(to_rgb(image, accepted.float_range), frames, degraded=False)
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, ValueError, struct.error
        if is_system_failure(error):
            raise
        raise describe_failure(path, error) from error


@contextlib.contextmanager
def allowing_truncation() -> Iterator[None]:
    """Let Pillow fill in missing pixels. Pillow has only a global setting for this."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def check_file(path: str, file: BinaryIO, accepted: Accepted, thorough: bool = False) -> ImageInfo:
    """Check an image by its header and its end; thorough: by decoding it.

    Without thorough, a file is decoded only if its end looks wrong, so damage in the middle is not found. Raises
    ImageError.
    """
    with reading(path):
        image = open_image(path, file, accepted)
        check_mode(path, image, accepted)
        info = ImageInfo(image.format or "", image.mode, image.width, image.height, frames_of(image))
        if thorough or not has_end(info.format, file):
            file.seek(0)
            decode_file(path, file, accepted, shortest_side=1)
    return info


def open_image(path: str, file: BinaryIO, accepted: Accepted) -> Image.Image:
    """Read the header (format and size) without decoding pixels. Raises ImageError."""
    formats = (*FORMATS, *accepted.more_formats)
    try:
        image = Image.open(file, formats=formats)
    except Exception as error:  # a damaged header can raise many kinds of exceptions
        if is_system_failure(error):
            raise
        raise describe_unopened(path, file, formats) from error
    if image.width * image.height > accepted.max_pixels:
        raise ImageError(
            path,
            "image_too_large",
            f"{image.width} x {image.height} pixels; at most {accepted.max_pixels:,} are accepted (--max-pixels)",
        )
    return image


def describe_unopened(path: str, file: BinaryIO, formats: tuple[str, ...]) -> ImageError:
    """The error for a file that cannot be opened as an image."""
    file.seek(0)
    head = file.read(SIGNATURE_BYTES)
    if image_format(head) == "WebP" and not has_end("WEBP", file):  # Pillow cannot open truncated WebP files
        return ImageError(path, "image_truncated", "the image is truncated")
    accepted = f"accepted formats: {', '.join(formats)}"
    other = image_format(head, NOT_ACCEPTED)
    name = other.replace(" ", "") if other else ""  # as Pillow spells it
    if other and name not in formats:
        advice = f" (for finetune, add --formats {name})" if name in MORE_FORMATS else ""
        return ImageError(path, "unsupported_format", f"the format is {other}; {accepted}{advice}")
    if known := other or image_format(head):
        return ImageError(path, "not_an_image", f"starts like {known}, but its header is damaged or truncated")
    return ImageError(path, "not_an_image", f"not an image; {accepted}")


def check_mode(path: str, image: Image.Image, accepted: Accepted) -> None:
    """Raises ImageError for 32-bit integer and float pixels, which have no standard range, unless one is given."""
    if has_no_range(image) and accepted.float_range is None:
        problem = f"pixels of mode {image.mode} (32 bits) have no standard range (for finetune, add --float-range)"
        raise ImageError(path, "unsupported_mode", problem)


def has_no_range(image: Image.Image) -> bool:
    """Whether pixels are 32-bit integers or floats. In a PNG, mode I means 16 bits."""
    return image.mode == "F" or (image.mode == "I" and image.format != "PNG")


def frames_of(image: Image.Image) -> int:
    """Number of frames or pages; 1 if unknown. Call before pixels are decoded."""
    if image.format not in SEVERAL_FRAMES:
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # damage after the first frame, which is the only one used
        with contextlib.suppress(Exception):
            image.seek(0)
        return 1


def to_rgb(image: Image.Image, float_range: tuple[float, float] | None) -> Image.Image:
    """Apply the EXIF orientation and convert to RGB."""
    upright = apply_orientation(image)
    if has_no_range(image) and float_range is not None:
        upright = range_to_eight(upright, *float_range)
    elif upright.mode.startswith("I"):  # 16 bits per pixel; Pillow's own conversion clips instead of scaling
        upright = sixteen_to_eight(upright)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        upright = Image.alpha_composite(canvas, layer)
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def apply_orientation(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; ignore a damaged EXIF block."""
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # EXIF blocks are often malformed; the pixels are still valid
        return image


def sixteen_to_eight(image: Image.Image) -> Image.Image:
    """Keep the high byte of each pixel, uint16 -> uint8, in mode L."""
    import numpy as np

    return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))


def range_to_eight(image: Image.Image, black: float, white: float) -> Image.Image:
    """Scale `black` to 0 and `white` to 255, clipped, in mode L. NaN becomes black."""
    import numpy as np

    scaled = (np.asarray(image).astype(np.float64) - black) * (255 / (white - black))
    return Image.fromarray(np.nan_to_num(scaled, nan=0).clip(0, 255).round().astype(np.uint8))


def is_system_failure(error: Exception) -> bool:
    """Whether memory ran out, or the operating system cannot read the file.

    EINVAL is excluded: a damaged header can cause it by an invalid seek.
    """
    return isinstance(error, MemoryError) or (is_refusal(error) and getattr(error, "errno", 0) != errno.EINVAL)


def describe_failure(path: str, error: Exception) -> ImageError:
    """The ImageError for an exception of a decoder."""
    text = str(error) or type(error).__name__
    if "truncated" in text or isinstance(error, (EOFError, struct.error)):
        return ImageError(path, "image_truncated", f"the image is truncated ({text})")
    return ImageError(path, "image_corrupt", f"the image is damaged ({text})")
