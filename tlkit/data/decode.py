"""File -> RGB pixels: the one place where an image is opened, so that prediction sees what training saw."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
import warnings
from collections.abc import Callable
from io import BufferedReader
from typing import BinaryIO

from PIL import Image, ImageFile, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 64_000_000
BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels."""

IMAGE_ERROR_CODES = (
    "not_found",
    "permission_denied",
    "is_directory",
    "not_regular_file",
    "symlink_loop",
    "empty_file",
    "not_an_image",
    "unsupported_format",
    "unsupported_mode",
    "image_truncated",
    "image_corrupt",
    "image_too_large",
    "decode_timeout",
)

OPEN_ERRORS = {
    errno.ENOENT: ("not_found", "no such file"),
    errno.ENOTDIR: ("not_found", "no such file"),
    errno.ENAMETOOLONG: ("not_found", "no such file (the name is too long)"),
    errno.EACCES: ("permission_denied", "permission denied"),
    errno.EPERM: ("permission_denied", "permission denied"),
    errno.ELOOP: ("symlink_loop", "too many levels of symbolic links"),
    errno.ENXIO: ("not_regular_file", "not a regular file"),
}

Signatures = tuple[tuple[int, bytes, str], ...]
"""Where a format's mark stands in a file, the mark, and the format's name."""

ACCEPTED: Signatures = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WebP"),
    (0, b"BM", "BMP"),
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
)
NOT_ACCEPTED: Signatures = (
    (4, b"ftypavi", "AVIF"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
)
SIGNATURE_BYTES = 16

# Pillow announces odd but readable files (a palette with transparency, a broken EXIF block) by Python warnings, and has
# a limit on pixels of its own. What they mean is decided here by code, so they say nothing to the user.
warnings.filterwarnings("ignore", module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None


class ImageError(Exception):
    """An image that cannot be used. code: one of IMAGE_ERROR_CODES; message: for people, without the path."""

    def __init__(self, path: str, code: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.code = code
        self.message = message


def image_format(head: bytes, signatures: Signatures = ACCEPTED) -> str | None:
    """The format that a file's first SIGNATURE_BYTES are the mark of."""
    return next((name for start, mark, name in signatures if head[start : start + len(mark)] == mark), None)


def decode_image(path: str, shortest_side: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image as RGB, upright as its EXIF orientation says, transparency on white, 16 bits scaled to 8.

    shortest_side: a large JPEG may be decoded at a reduced scale as long as its shorter side stays at least so
    many pixels. Of animations the first frame. Raises ImageError.
    """
    with open_regular(path) as file:
        return decode_file(path, file, shortest_side, max_pixels)


def decode_file(
    path: str, file: BinaryIO, shortest_side: int | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """As decode_image, of a file that is open at its beginning."""
    image = open_image(path, file, max_pixels)
    if shortest_side is not None and image.format == "JPEG":
        scale = shortest_side / min(image.size)
        if scale < 1:
            image.draft(None, (max(1, int(image.width * scale)), max(1, int(image.height * scale))))
    try:
        return to_rgb(path, image)
    except ImageError:
        raise
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, ValueError, struct.error
        raise describe_failure(path, error) from error


def file_digest(path: str, file: BufferedReader) -> bytes:
    """The SHA-256 of an open file, which is left at its beginning. Raises ImageError."""
    try:
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0)
    except OSError as error:
        raise describe_failure(path, error) from error
    return digest


def check_image(path: str, max_pixels: int = MAX_PIXELS) -> None:
    """Find out cheaply whether an image can be decoded: its header, and whether its end is there.

    Only a file whose end looks wrong is decoded, so damage in the middle of a file is not found here. Raises
    ImageError.
    """
    with open_regular(path) as file:
        image = open_image(path, file, max_pixels)
        check_mode(path, image)
        whole = has_its_end(image.format or "", file)
    if not whole:
        decode_image(path, max_pixels=max_pixels)


def has_its_end(format: str, file: BinaryIO) -> bool:
    """Whether a file's end can be seen to be there; False where only decoding can tell."""
    check = ENDINGS.get(format)
    return check is not None and check(file)


def open_regular(path: str) -> BufferedReader:
    """Open a regular file for reading; never waits for a pipe. Raises ImageError."""
    if not path:
        raise ImageError(path, "not_found", "the path is empty")
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        code, message = OPEN_ERRORS.get(error.errno or 0, ("not_found", f"cannot be opened: {error.strerror}"))
        raise ImageError(path, code, message) from error
    except ValueError as error:
        raise ImageError(path, "not_found", "the path holds a NUL byte") from error
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(path, "is_directory", "is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(path, "not_regular_file", "not a regular file")
    raise ImageError(path, "empty_file", "the file is empty")


def open_image(path: str, file: BinaryIO, max_pixels: int) -> Image.Image:
    """Read the header: format and size are known, no pixel is decoded yet. Raises ImageError."""
    try:
        image = Image.open(file, formats=FORMATS)
    except Exception as error:  # a damaged header can raise nearly anything
        file.seek(0)
        raise describe_unopened(path, file.read(SIGNATURE_BYTES)) from error
    if image.width * image.height > max_pixels:
        raise ImageError(
            path,
            "image_too_large",
            f"{image.width} x {image.height} pixels; the most accepted is {max_pixels:,}",
        )
    return image


def describe_unopened(path: str, head: bytes) -> ImageError:
    """Why a file that begins with these bytes is no image for us."""
    accepted = f"accepted are {', '.join(FORMATS)}"
    if other := image_format(head, NOT_ACCEPTED):
        return ImageError(path, "unsupported_format", f"the format is {other}; {accepted}")
    if ours := image_format(head):
        return ImageError(path, "not_an_image", f"begins like {ours}, but its header is damaged or cut short")
    return ImageError(path, "not_an_image", f"not an image; {accepted}")


def check_mode(path: str, image: Image.Image) -> None:
    """Raises ImageError for pixels that have no agreed range: 32-bit integers and floats."""
    if image.mode in ("F", "I") and not (image.mode == "I" and image.format == "PNG"):
        raise ImageError(path, "unsupported_mode", f"pixels of mode {image.mode} (32 bits) have no agreed range")


def to_rgb(path: str, image: Image.Image) -> Image.Image:
    """Decode, turn upright, and convert to RGB."""
    check_mode(path, image)
    image.load()
    upright = apply_orientation(image)
    if upright.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion clips instead of scaling
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
    except Exception:  # EXIF is written by cameras and phones of all kinds; pixels do not depend on it
        return image


def sixteen_to_eight(image: Image.Image) -> Image.Image:
    """Keep the high byte of each pixel, uint16 -> uint8, in mode L."""
    import numpy as np

    return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))


def describe_failure(path: str, error: Exception) -> ImageError:
    """A decoder's exception as a code and a message."""
    text = str(error) or type(error).__name__
    if "truncated" in text or isinstance(error, (EOFError, struct.error)):
        return ImageError(path, "image_truncated", f"the image is cut short ({text})")
    return ImageError(path, "image_corrupt", f"the image is damaged ({text})")


def _ends_with(marker: bytes, within: int) -> Callable[[BinaryIO], bool]:
    """A check that `marker` stands in the last `within` bytes."""

    def check(file: BinaryIO) -> bool:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - within))
        return marker in file.read(within)

    return check


def _riff_is_whole(file: BinaryIO) -> bool:
    """A check that a RIFF container (WebP) is as long as it says."""
    file.seek(4)
    claimed: int = struct.unpack("<I", file.read(4))[0]
    return file.seek(0, os.SEEK_END) >= claimed + 8


# How to see, without decoding, that a file's end is there. A format that is not listed is decoded.
ENDINGS: dict[str, Callable[[BinaryIO], bool]] = {
    "JPEG": _ends_with(b"\xff\xd9", 64),
    "PNG": _ends_with(b"IEND\xaeB`\x82", 64),
    "WEBP": _riff_is_whole,
    "GIF": _ends_with(b"\x3b", 1),
}

assert not ImageFile.LOAD_TRUNCATED_IMAGES, "a truncated image must be an error"
