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
    has_its_end,
    image_format,
)
from tlkit.data.image_file import ImageError, is_refusal, reading

MAX_PIXELS = 64_000_000


BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels."""


# Pillow announces odd but readable files (a palette with transparency, a broken EXIF block) by Python warnings, and has
# a limit on pixels of its own. What they mean is decided here by code, so they say nothing to the user.
warnings.filterwarnings("ignore", module=r"PIL\.")


Image.MAX_IMAGE_PIXELS = None


assert not ImageFile.LOAD_TRUNCATED_IMAGES, "a truncated image must be an error"


@dataclass(frozen=True)
class Accepted:
    """Which images are read. Raises ValueError for what cannot be meant: some of it comes out of model files.

    more_formats: of MORE_FORMATS, beside FORMATS. float_range: the values of 32-bit pixels that become
    black and white; without it such images are refused. truncated: read an image that is cut short as far as it goes.
    """

    max_pixels: int = MAX_PIXELS
    more_formats: tuple[str, ...] = ()
    float_range: tuple[float, float] | None = None
    truncated: bool = False

    def __post_init__(self) -> None:
        if not set(self.more_formats) <= set(MORE_FORMATS):
            raise ValueError(f"formats are {', '.join(MORE_FORMATS)}, not {self.more_formats}")
        if self.float_range is not None:
            black, white = map(float, self.float_range)
            if not (math.isfinite(black) and math.isfinite(white) and black != white):
                raise ValueError(f"{self.float_range} is no range")


@dataclass(frozen=True)
class ImageInfo:
    """What a file's header says. frames: of an animation, or pages."""

    format: str
    mode: str
    width: int
    height: int
    frames: int


@dataclass(frozen=True)
class Decoded:
    """The first frame of a file as RGB. degraded: the file is cut short, and the rest of the picture is made up."""

    image: Image.Image
    frames: int
    degraded: bool


def decode_file(path: str, file: BinaryIO, accepted: Accepted, shortest_side: int | None = None) -> Decoded:
    """A file that is open at its beginning as RGB, upright as its EXIF orientation says, transparency on white, 16 bits
    scaled to 8.

    shortest_side: a large JPEG may be decoded at a reduced scale as long as its shorter side stays at least so
    many pixels. Of animations the first frame. Raises ImageError.
    """
    try:
        with reading(path):
            return decode_whole(path, file, accepted, shortest_side)
    except ImageError as error:
        if error.code != "image_truncated" or not accepted.truncated:
            raise
    with reading(path), as_far_as_it_goes():
        file.seek(0)
        image = decode_whole(path, file, accepted, shortest_side)
    return Decoded(image.image, image.frames, degraded=True)


def decode_bytes(name: str, content: bytes, accepted: Accepted, shortest_side: int | None = None) -> Decoded:
    """As decode_file, of a file whose content is at hand. Raises ImageError."""
    return decode_file(name, io.BytesIO(content), accepted, shortest_side)


def decode_whole(path: str, file: BinaryIO, accepted: Accepted, shortest_side: int | None) -> Decoded:
    """As decode_file, of a file that is not cut short."""
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
        if says_nothing_of_the_image(error):
            raise
        raise describe_failure(path, error) from error


@contextlib.contextmanager
def as_far_as_it_goes() -> Iterator[None]:
    """Inside, Pillow fills up what is missing of an image. It knows this as a global setting only."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def check_file(path: str, file: BinaryIO, accepted: Accepted, thorough: bool = False) -> ImageInfo:
    """Find out whether an image can be decoded, by its header and whether its end is there; thorough: by decoding it.

    Otherwise only a file whose end looks wrong is decoded, so damage in the middle of a file is not found. Raises
    ImageError.
    """
    with reading(path):
        image = open_image(path, file, accepted)
        check_mode(path, image, accepted)
        facts = ImageInfo(image.format or "", image.mode, image.width, image.height, frames_of(image))
        if thorough or not has_its_end(facts.format, file):
            file.seek(0)
            decode_file(path, file, accepted, shortest_side=1)
    return facts


def open_image(path: str, file: BinaryIO, accepted: Accepted) -> Image.Image:
    """Read the header: format and size are known, no pixel is decoded yet. Raises ImageError."""
    formats = (*FORMATS, *accepted.more_formats)
    try:
        image = Image.open(file, formats=formats)
    except Exception as error:  # a damaged header can raise nearly anything
        if says_nothing_of_the_image(error):
            raise
        raise describe_unopened(path, file, formats) from error
    if image.width * image.height > accepted.max_pixels:
        raise ImageError(
            path,
            "image_too_large",
            f"{image.width} x {image.height} pixels; the most accepted is {accepted.max_pixels:,} (--max-pixels)",
        )
    return image


def describe_unopened(path: str, file: BinaryIO, formats: tuple[str, ...]) -> ImageError:
    """Why a file is no image for us."""
    file.seek(0)
    head = file.read(SIGNATURE_BYTES)
    if image_format(head) == "WebP" and not has_its_end("WEBP", file):  # Pillow opens them whole or not at all
        return ImageError(path, "image_truncated", "the image is cut short")
    accepted = f"accepted are {', '.join(formats)}"
    other = image_format(head, NOT_ACCEPTED)
    name = other.replace(" ", "") if other else ""  # as Pillow has it
    if other and name not in formats:
        advice = f" (finetune takes --formats {name})" if name in MORE_FORMATS else ""
        return ImageError(path, "unsupported_format", f"the format is {other}; {accepted}{advice}")
    if ours := other or image_format(head):
        return ImageError(path, "not_an_image", f"begins like {ours}, but its header is damaged or cut short")
    return ImageError(path, "not_an_image", f"not an image; {accepted}")


def check_mode(path: str, image: Image.Image, accepted: Accepted) -> None:
    """Raises ImageError for pixels that have no agreed range, 32-bit integers and floats, unless one is given."""
    if has_no_range(image) and accepted.float_range is None:
        problem = f"pixels of mode {image.mode} (32 bits) have no agreed range (finetune takes --float-range)"
        raise ImageError(path, "unsupported_mode", problem)


def has_no_range(image: Image.Image) -> bool:
    """Whether pixels are 32-bit integers or floats. In a PNG, mode I means 16 bits."""
    return image.mode == "F" or (image.mode == "I" and image.format != "PNG")


def frames_of(image: Image.Image) -> int:
    """How many frames or pages a file holds, as far as they can be counted. Call before pixels are decoded."""
    if image.format not in SEVERAL_FRAMES:
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # damage behind the first frame, which is all that is used
        with contextlib.suppress(Exception):
            image.seek(0)
        return 1


def to_rgb(image: Image.Image, float_range: tuple[float, float] | None) -> Image.Image:
    """Turn upright, and convert to RGB."""
    upright = apply_orientation(image)
    if has_no_range(image) and float_range is not None:
        upright = range_to_eight(upright, *float_range)
    elif upright.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion clips instead of scaling
        upright = sixteen_to_eight(upright)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        upright = Image.alpha_composite(canvas, layer)
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def apply_orientation(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says; a damaged EXIF block counts as none."""
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # EXIF is written by cameras and phones of all kinds; pixels do not depend on it
        return image


def sixteen_to_eight(image: Image.Image) -> Image.Image:
    """Keep the high byte of each pixel, uint16 -> uint8, in mode L."""
    import numpy as np

    return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))


def range_to_eight(image: Image.Image, black: float, white: float) -> Image.Image:
    """Scale so that `black` becomes 0 and `white` 255, beyond them clipped, in mode L. What is no number is black."""
    import numpy as np

    scaled = (np.asarray(image).astype(np.float64) - black) * (255 / (white - black))
    return Image.fromarray(np.nan_to_num(scaled, nan=0).clip(0, 255).round().astype(np.uint8))


def says_nothing_of_the_image(error: Exception) -> bool:
    """Whether memory is used up, or the system cannot read the file.

    EINVAL it may say of a place in the file to which a damaged header leads.
    """
    return isinstance(error, MemoryError) or (is_refusal(error) and getattr(error, "errno", 0) != errno.EINVAL)


def describe_failure(path: str, error: Exception) -> ImageError:
    """A decoder's exception as a code and a message."""
    text = str(error) or type(error).__name__
    if "truncated" in text or isinstance(error, (EOFError, struct.error)):
        return ImageError(path, "image_truncated", f"the image is cut short ({text})")
    return ImageError(path, "image_corrupt", f"the image is damaged ({text})")
