"""An open file -> RGB pixels: the one place where an image is decoded, so that prediction sees what training saw."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image, ImageFile, ImageOps

from tlkit.data import tiff
from tlkit.data.depth import to_eight_bits
from tlkit.data.formats import has_end
from tlkit.data.header import UNSUPPORTED, Accepted, Header, is_system_failure, open_image
from tlkit.data.image_file import ImageError, reading

BACKGROUND = (255, 255, 255)
"""Color behind transparent pixels."""

TRUNCATED = re.compile(r"truncated|not enough image data", re.IGNORECASE)
"""Messages of Pillow's readers about truncated files."""

assert not ImageFile.LOAD_TRUNCATED_IMAGES, "a truncated image must be an error"


@dataclass(frozen=True)
class ImageInfo:
    """Information about a file. frames: number of frames or pages. peak: see Decoded."""

    format: str
    mode: str
    width: int
    height: int
    frames: int
    peak: int | None = None


@dataclass(frozen=True)
class Decoded:
    """The first frame of a file as RGB. degraded: the file is truncated, and missing pixels are filled in.

    peak: the largest value of 16-bit pixels, if all 16 bits are taken to count; None for other images.
    """

    image: Image.Image
    frames: int
    degraded: bool = False
    peak: int | None = None


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
        return dataclasses.replace(decode_complete(path, file, accepted, shortest_side), degraded=True)


def decode_complete(path: str, file: BinaryIO, accepted: Accepted, shortest_side: int | None) -> Decoded:
    """Like decode_file, for a file that is not truncated."""
    header = open_image(path, file, accepted)
    image = header.image
    try:
        frames = header.frames
        if shortest_side is not None and image.format in ("JPEG", "MPO"):
            scale = shortest_side / min(image.size)
            if scale < 1:
                image.draft(None, (max(1, int(image.width * scale)), max(1, int(image.height * scale))))
        rgb, peak = to_rgb(header, accepted)
        return Decoded(rgb, frames, peak=peak)
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, ValueError, struct.error
        if is_system_failure(error) or isinstance(error, ImageError):
            raise
        raise describe_failure(header, error) from error


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
        header = open_image(path, file, accepted)
        image = header.image
        info = ImageInfo(image.format or "", image.mode, image.width, image.height, header.frames)
        if thorough or header.depth == 16 or not has_end(info.format, file):
            file.seek(0)
            info = dataclasses.replace(info, peak=decode_file(path, file, accepted, shortest_side=1).peak)
    return info


def to_rgb(header: Header, accepted: Accepted) -> tuple[Image.Image, int | None]:
    """Decode, apply the EXIF orientation and convert to RGB; also the peak of 16-bit pixels."""
    decoded: Image.Image = header.image
    peak = None
    if header.depth > 8 or header.is_scaled:
        decoded, peak = to_eight_bits(header, accepted)
    else:
        repair_colors(header)
    upright = apply_orientation(decoded)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        upright = Image.alpha_composite(canvas, layer)
    return upright if upright.mode == "RGB" else upright.convert("RGB"), peak


def repair_colors(header: Header) -> None:
    """Decode at most 8 bits. Corrects Pillow's transparency of PNG with 2 and 4 bits, and TIFF palettes of 8 bits."""
    image, page = header.image, header.page
    steps = {"L;2": 85, "L;4": 17}.get(header.layout)
    if steps and image.format == "PNG" and "transparency" in image.info:
        image.info["transparency"] *= steps
    image.load()
    colors = page.tags.get(tiff.COLOR_MAP, ()) if page is not None and image.mode in ("P", "PA") else ()
    if colors and max(colors) < 256:
        third = len(colors) // 3
        channels = colors[:third], colors[third : 2 * third], colors[2 * third :]
        image.putpalette(bytes(value for color in zip(*channels, strict=True) for value in color))


def apply_orientation(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; ignore a damaged EXIF block."""
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # EXIF blocks are often malformed; the pixels are still valid
        return image


def describe_failure(header: Header, error: Exception) -> ImageError:
    """The ImageError for an exception of a decoder."""
    text = str(error) or type(error).__name__
    if UNSUPPORTED.search(text):
        return ImageError(header.path, "unsupported_mode", f"pixels of this kind are not supported ({text})")
    cut = header.page is not None and tiff.is_truncated(header.file, header.page)
    if cut or TRUNCATED.search(text) or isinstance(error, (EOFError, struct.error)):
        return ImageError(header.path, "image_truncated", f"the image is truncated ({text})")
    return ImageError(header.path, "image_corrupt", f"the image is damaged ({text})")
