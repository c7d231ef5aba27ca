"""An open file -> RGB pixels: the one place where an image is decoded, so that prediction sees what training saw."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import math
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image, ImageFile, ImageOps, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from tlkit.data import jpeg, tiff
from tlkit.data.depth import Range, depth_of, has_no_range, is_scaled_ppm, layout_of, to_eight_bits
from tlkit.data.formats import FORMATS, HEAD_BYTES, HEIF, MORE_FORMATS, SEVERAL_FRAMES, has_end, kind_of
from tlkit.data.image_file import ImageError, is_refusal, reading

ReadChunk = Callable[[PngImagePlugin.PngStream, int, int], bytes]

MAX_PIXELS = 64_000_000

BACKGROUND = (255, 255, 255)
"""Color behind transparent pixels."""


# Pillow warns about unusual but readable files (a palette with transparency, a broken EXIF block) and has its own pixel
# limit. Both are handled here, so the warnings would only confuse the user.
warnings.filterwarnings("ignore", module=r"PIL\.")


Image.MAX_IMAGE_PIXELS = None


UNSUPPORTED = re.compile(r"unsupported|unknown|cannot handle|not (yet )?supported|invalid palette size", re.IGNORECASE)
"""Messages of Pillow's readers about valid files that they do not read."""

TRUNCATED = re.compile(r"truncated|not enough image data", re.IGNORECASE)

assert not ImageFile.LOAD_TRUNCATED_IMAGES, "a truncated image must be an error"

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

FREE_BYTES, BYTES_OF_PIXEL = 64 << 20, 64
"""A file may have this many bytes, and this many more for each pixel of each frame.

A larger file, which may be sparse and need no space on the drive, would take hours to read.
"""


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


def decode_bytes(name: str, content: bytes, accepted: Accepted, shortest_side: int | None = None) -> Decoded:
    """Like decode_file, for the bytes of a file. Raises ImageError."""
    return decode_file(name, io.BytesIO(content), accepted, shortest_side)


def decode_complete(path: str, file: BinaryIO, accepted: Accepted, shortest_side: int | None) -> Decoded:
    """Like decode_file, for a file that is not truncated."""
    image, page = open_image(path, file, accepted)
    try:
        frames = count_frames(image, file)
        if shortest_side is not None and image.format in ("JPEG", "MPO"):
            scale = shortest_side / min(image.size)
            if scale < 1:
                image.draft(None, (max(1, int(image.width * scale)), max(1, int(image.height * scale))))
        rgb, peak = to_rgb(path, file, image, page, accepted)
        return Decoded(rgb, frames, peak=peak)
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, ValueError, struct.error
        if is_system_failure(error) or isinstance(error, ImageError):
            raise
        if page is not None and tiff.is_truncated(file, page):
            raise ImageError(path, "image_truncated", "the image is truncated") from error
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
        image, page = open_image(path, file, accepted)
        info = ImageInfo(image.format or "", image.mode, image.width, image.height, count_frames(image, file))
        if thorough or depth_of(image, page) == 16 or not has_end(info.format, file):
            file.seek(0)
            info = dataclasses.replace(info, peak=decode_file(path, file, accepted, shortest_side=1).peak)
    return info


def open_image(path: str, file: BinaryIO, accepted: Accepted) -> tuple[ImageFile.ImageFile, tiff.Directory | None]:
    """Read the header (format, size, kind of pixels) without decoding pixels; also the first page of a TIFF.

    Raises ImageError for what cannot be decoded correctly and within limits.
    """
    formats = (*FORMATS, *accepted.more_formats)
    head = file.read(HEAD_BYTES)
    format, page = require_format(path, head, formats), None
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
    size, most = file.seek(0, os.SEEK_END), FREE_BYTES + BYTES_OF_PIXEL * pixels
    if size > most and size > most + BYTES_OF_PIXEL * pixels * (count_frames(image, file) - 1):
        problem = f"{size:,} bytes are too many for {image.width} x {image.height} pixels; expected at most {most:,}"
        raise ImageError(path, "image_too_large", problem)
    if has_no_range(image) and accepted.float_range is None:
        problem = f"pixels of mode {image.mode} (32 bits) have no standard range (for finetune, add --float-range)"
        raise ImageError(path, "unsupported_mode", problem)
    return image, page


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
    """The error for an image whose header Pillow does not read. page: of a TIFF, which has been found whole."""
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


def count_frames(image: ImageFile.ImageFile, file: BinaryIO) -> int:
    """Number of frames or pages, up to a limit for TIFF; 1 if unknown. Call before pixels are decoded."""
    if image.format not in SEVERAL_FRAMES:
        return 1
    if image.format == "TIFF":
        return tiff.count_pages(file)
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # damage after the first frame, which is the only one used
        with contextlib.suppress(Exception):
            image.seek(0)
        return 1


def to_rgb(
    path: str, file: BinaryIO, image: ImageFile.ImageFile, page: tiff.Directory | None, accepted: Accepted
) -> tuple[Image.Image, int | None]:
    """Decode, apply the EXIF orientation and convert to RGB; also the peak of 16-bit pixels."""
    depth, peak = depth_of(image, page), None
    if depth > 8 or is_scaled_ppm(image):
        ends = {16: accepted.integer_range, 32: accepted.float_range}.get(depth)
        decoded, peak = to_eight_bits(path, file, image, page, ends, depth)
    else:
        repair_colors(image, page)
        decoded = image
    upright = apply_orientation(decoded)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        upright = Image.alpha_composite(canvas, layer)
    return upright if upright.mode == "RGB" else upright.convert("RGB"), peak


def repair_colors(image: ImageFile.ImageFile, page: tiff.Directory | None) -> None:
    """Decode at most 8 bits. Corrects Pillow's transparency of PNG with 2 and 4 bits, and TIFF palettes of 8 bits."""
    steps = {"L;2": 85, "L;4": 17}.get(layout_of(image))
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


def is_system_failure(error: Exception) -> bool:
    """Whether memory ran out, or the operating system cannot read the file.

    EINVAL is excluded: a damaged header can cause it by an invalid seek.
    """
    return isinstance(error, MemoryError) or (is_refusal(error) and getattr(error, "errno", 0) != errno.EINVAL)


def describe_failure(path: str, error: Exception) -> ImageError:
    """The ImageError for an exception of a decoder."""
    text = str(error) or type(error).__name__
    if UNSUPPORTED.search(text):
        return ImageError(path, "unsupported_mode", f"pixels of this kind are not supported ({text})")
    if TRUNCATED.search(text) or isinstance(error, (EOFError, struct.error)):
        return ImageError(path, "image_truncated", f"the image is truncated ({text})")
    return ImageError(path, "image_corrupt", f"the image is damaged ({text})")
