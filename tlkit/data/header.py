"""Open an image: find out by its header whether it is decoded correctly and within limits. Decodes no pixels."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from tlkit.data import jpeg, tiff
from tlkit.data.formats import FORMATS, HEAD_BYTES, HEIF, MORE_FORMATS, SEVERAL_FRAMES, has_end, kind_of
from tlkit.data.image_file import ImageError, is_refusal

MAX_PIXELS = 64_000_000

FREE_BYTES, BYTES_OF_PIXEL = 64 << 20, 64
"""A file may have this many bytes, and this many more for each pixel of each frame.

A larger file, which may be sparse and need no space on the drive, would take hours to read.
"""

UNSUPPORTED = re.compile(r"unsupported|unknown|cannot handle|not (yet )?supported|invalid palette size", re.IGNORECASE)
"""Messages of Pillow's readers about valid files that they do not read."""

Range = tuple[float, float] | None
"""The values of black and white."""

ReadChunk = Callable[[PngImagePlugin.PngStream, int, int], bytes]

# Pillow warns about unusual but readable files (a palette with transparency, a broken EXIF block) and has its own pixel
# limit. Both are handled here, so the warnings would only confuse the user.
warnings.filterwarnings("ignore", module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None

# Pillow knows 16 bits where zero is white in one byte order only.
TiffImagePlugin.OPEN_INFO.setdefault((b"MM", 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))


def ignoring_errors(read_chunk: ReadChunk) -> ReadChunk:
    """A reader of a PNG chunk that ignores content which Pillow refuses, such as a very long text."""

    def read(stream: PngImagePlugin.PngStream, place: int, length: int) -> bytes:
        try:
            return read_chunk(stream, place, length)
        except (ValueError, SyntaxError):
            assert stream.fp is not None
            stream.fp.seek(place)
            return stream.fp.read(length)

    return read


# The pixels do not need these chunks, so that faults in them do not matter.
for chunk in ("tEXt", "zTXt", "iTXt", "iCCP", "cHRM", "gAMA", "sRGB", "pHYs", "eXIf"):
    name = f"chunk_{chunk}"
    setattr(PngImagePlugin.PngStream, name, ignoring_errors(getattr(PngImagePlugin.PngStream, name)))


@dataclass(frozen=True)
class Accepted:
    """Limits and formats of accepted images. Raises ValueError for invalid values, which a model file could contain.

    more_formats: from MORE_FORMATS, in addition to FORMATS. truncated: accept truncated images.
    float_range: the values of 32-bit pixels that become black and white; without it such images are refused.
    integer_range: the same of 16-bit pixels; without it, 0 and 65,535.
    """

    max_pixels: int = MAX_PIXELS
    more_formats: tuple[str, ...] = ()
    float_range: Range = None
    truncated: bool = False
    integer_range: Range = None

    def __post_init__(self) -> None:
        if not set(self.more_formats) <= set(MORE_FORMATS):
            raise ValueError(f"expected formats from {', '.join(MORE_FORMATS)}, not {self.more_formats}")
        for ends in (self.float_range, self.integer_range):
            if ends is not None:
                black, white = map(float, ends)
                if not (math.isfinite(black) and math.isfinite(white) and black != white):
                    raise ValueError(f"{ends} is not a range")


@dataclass(frozen=True)
class Header:
    """An opened image. page: the first page of a TIFF. layout: Pillow's name of the channels and bits in the file.

    white: the value that a PPM or PGM declares as white, if it is not the largest of its bits; else 0.
    is_scaled: whether Pillow would scale the pixels of a PPM or PGM one by one, slowly.
    """

    path: str
    file: BinaryIO
    image: ImageFile.ImageFile
    page: tiff.Directory | None
    layout: str
    white: int
    is_scaled: bool

    @property
    def has_no_range(self) -> bool:
        """Whether pixels are 32-bit integers or floats. In a PNG or PGM, mode I means 16 bits."""
        return self.image.mode == "F" or (self.image.mode == "I" and self.image.format not in ("PNG", "PPM"))

    @property
    def depth(self) -> int:
        """Bits of a channel: 8 (also for fewer), 12, 16 or 32."""
        if self.has_no_range:
            return 32
        if self.page is not None:
            return self.page.bits if self.page.bits in (12, 16) else 8
        return 16 if self.image.mode.startswith("I") or ";16" in self.layout or self.white > 255 else 8

    @cached_property
    def frames(self) -> int:
        """Number of frames or pages, up to a limit for TIFF; 1 if unknown. Known before pixels are decoded only."""
        if self.image.format not in SEVERAL_FRAMES:
            return 1
        if self.image.format == "TIFF":
            return tiff.count_pages(self.file)
        try:
            return int(getattr(self.image, "n_frames", 1))
        except Exception:  # damage after the first frame, which is the only one used
            with contextlib.suppress(Exception):
                self.image.seek(0)
            return 1


def open_image(path: str, file: BinaryIO, accepted: Accepted) -> Header:
    """Read the header (format, size, kind of pixels) of an image.

    Raises ImageError for an image that cannot be decoded correctly and within limits.
    """
    format, page = require_format(path, file.read(HEAD_BYTES), (*FORMATS, *accepted.more_formats)), None
    if format == "JPEG":
        jpeg.check_jpeg(path, file)
    elif format == "TIFF":
        page = tiff.check_tiff(path, file)
    TiffImagePlugin.READ_LIBTIFF = page is not None and page.needs_libtiff
    file.seek(0)
    try:
        image = Image.open(file, formats=[format])
    except Exception as error:  # a damaged header can raise many kinds of exceptions
        if is_system_failure(error):
            raise
        raise describe_unopened(path, file, format, page, error) from error
    pixels = image.width * image.height
    if pixels > accepted.max_pixels:
        problem = f"{image.width} x {image.height} pixels; at most {accepted.max_pixels:,} are accepted (--max-pixels)"
        raise ImageError(path, "image_too_large", problem)
    tile = image.tile[0] if image.tile else None
    arguments = tile.args if tile else ""
    layout = arguments if isinstance(arguments, str) else str(arguments[0]) if arguments else ""
    white = int(arguments[1]) if format == "PPM" and isinstance(arguments, tuple) else 0
    header = Header(path, file, image, page, layout, white, tile is not None and tile.codec_name == "ppm")
    size, most = file.seek(0, os.SEEK_END), FREE_BYTES + BYTES_OF_PIXEL * pixels
    if size > most and size > most + BYTES_OF_PIXEL * pixels * (header.frames - 1):
        problem = f"{size:,} bytes are too many for {image.width} x {image.height} pixels; expected at most {most:,}"
        raise ImageError(path, "image_too_large", problem)
    if header.has_no_range and accepted.float_range is None:
        problem = f"pixels of mode {image.mode} (32 bits) have no standard range (for finetune, add --float-range)"
        raise ImageError(path, "unsupported_mode", problem)
    return header


def require_format(path: str, head: bytes, formats: tuple[str, ...]) -> str:
    """The format of a file with these first bytes, by Pillow's name. Raises ImageError if it cannot be read."""
    kind = kind_of(head)
    accepted = f"accepted formats: {', '.join(formats)}"
    if kind is None:
        raise ImageError(path, "not_an_image", f"not an image; {accepted}")
    if not kind.is_image:
        raise ImageError(path, "not_an_image", f"not an image, but {kind.name}{kind.advice}")
    if kind.pillow == HEIF:
        try:
            import pillow_heif
        except ImportError:
            advice = "to read it, install pillow-heif: pip install 'tlkit[heif]'"
            raise ImageError(path, "unsupported_format", f"the format is {kind.name}; {advice}") from None
        pillow_heif.register_heif_opener()
    elif kind.pillow not in formats:
        advice = f" (for finetune, add --formats {kind.pillow})" if kind.pillow else kind.advice
        raise ImageError(path, "unsupported_format", f"the format is {kind.name}; {accepted}{advice}")
    return kind.pillow


def describe_unopened(
    path: str, file: BinaryIO, format: str, page: tiff.Directory | None, error: Exception
) -> ImageError:
    """The error for an image whose header Pillow does not read. page: of a TIFF, whose tags are whole."""
    if format == "WEBP" and not has_end("WEBP", file):  # Pillow cannot open truncated WebP files
        return ImageError(path, "image_truncated", "the image is truncated")
    reason = str(error)
    if isinstance(error, UnidentifiedImageError):  # it hides the reason
        file.seek(0)
        try:
            Image.OPEN[format][0](file, "")
        except Exception as hidden:
            reason = str(hidden)
    if page is not None or UNSUPPORTED.search(reason):
        return ImageError(path, "unsupported_mode", f"{format} of this kind is not supported ({reason})")
    return ImageError(path, "not_an_image", f"starts like {format}, but its header is damaged or truncated")


def is_system_failure(error: Exception) -> bool:
    """Whether memory ran out, or the operating system cannot read the file.

    EINVAL is excluded: a damaged header can cause it by an invalid seek.
    """
    return isinstance(error, MemoryError) or (is_refusal(error) and getattr(error, "errno", 0) != errno.EINVAL)
