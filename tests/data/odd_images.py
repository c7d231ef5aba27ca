"""Files as users' folders hold them: odd ones that must be read, and bad ones that must be named."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

Write = Callable[[Path], None]
RED, WHITE = (200, 30, 40), (255, 255, 255)


def pixels(width: int = 40, height: int = 30) -> np.ndarray:
    """A smooth picture whose corners differ, uint8 [H, W, 3]."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([across, down, 255 - across], 2).round().astype(np.uint8)


def noise(width: int = 200, height: int = 150) -> Image.Image:
    """A picture that no format makes small."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(format: str, image: Image.Image | None = None, **options: object) -> bytes:
    """An image as the bytes of a file."""
    buffer = io.BytesIO()
    (image or Image.fromarray(pixels())).save(buffer, format, **options)
    return buffer.getvalue()


def holding(content: bytes) -> Write:
    """What writes a file of this content."""

    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def picture(mode: str, format: str, **options: object) -> Write:
    """What writes the picture in another mode."""
    return holding(encoded(format, Image.fromarray(pixels()).convert(mode), **options))


def one_bit_png(side: int) -> bytes:
    """A huge black square in a few kilobytes, written without ever holding it."""
    compressor = zlib.compressobj(9)
    rows = b"".join(compressor.compress(bytes(1 + -(-side // 8))) for _ in range(side)) + compressor.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def chunk(name: bytes, content: bytes) -> bytes:
    """A PNG chunk: length, name, content, checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def flipped(content: bytes, place: int) -> bytes:
    """The same with one byte changed."""
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def sixteen_bit() -> Image.Image:
    """All values of 16 bits, 256 apart, one for each column."""
    return Image.fromarray(np.tile(np.arange(256, dtype=np.uint16) * 256, (8, 1)))


def sixteen_bit_rgb() -> bytes:
    """A PNG of 16 bits for each of three channels, which Pillow cannot write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels().astype(np.uint16) * 257)
    header = struct.pack(">IIBBBBB", 40, 30, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def with_broken_exif() -> bytes:
    """A JPEG whose EXIF block points outside itself."""
    return encoded("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\xff" * 20)


def link_to(target: str) -> Write:
    """What makes a symbolic link."""
    return lambda path: path.symlink_to(target)


def socket_file(path: Path) -> None:
    """A socket in the file system. Its name must be short, so the folder is named by its descriptor."""
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


def camera_jpeg() -> bytes:
    """A JPEG that holds another one, as cameras and phones write it: a preview, a depth map."""
    preview = Image.new("RGB", (20, 20), WHITE)
    return encoded("MPO", Image.fromarray(pixels()), save_all=True, append_images=[preview])


def with_text(length: int) -> bytes:
    """A PNG with a compressed comment of so many zeros."""
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(length), 9))
    return PNG[:33] + text + PNG[33:]


def claiming(content: bytes, place: int, *sides: int) -> bytes:
    """A file whose header says other sides, as 16-bit numbers, little end first."""
    return content[:place] + struct.pack(f"<{len(sides)}H", *sides) + content[place + 2 * len(sides) :]


def frames(format: str) -> Write:
    """What writes an animation: a red frame, then white ones."""
    images = [Image.new("RGB", (40, 30), colour) for colour in (RED, WHITE, WHITE)]
    return holding(encoded(format, images[0], save_all=True, append_images=images[1:]))


JPEG, PNG, WEBP, GIF = encoded("JPEG"), encoded("PNG"), encoded("WEBP", lossless=True), encoded("GIF")
NOISE = encoded("JPEG", noise())

READABLE: dict[str, Write] = {
    "plain.jpg": holding(JPEG),
    "progressive.jpg": holding(encoded("JPEG", progressive=True)),
    "trailing_junk.jpg": holding(JPEG + b"junk" * 500),
    "png_inside.jpg": holding(PNG),
    "no_suffix": holding(JPEG),
    "grey.png": picture("L", "PNG"),
    "one_bit.png": picture("1", "PNG"),
    "cmyk.jpg": picture("CMYK", "JPEG"),
    "grey_alpha.png": picture("LA", "PNG"),
    "alpha.png": picture("RGBA", "PNG"),
    "palette.png": picture("P", "PNG"),
    "palette_alpha.png": picture("P", "PNG", transparency=bytes(range(256))),
    "sixteen_bit.png": holding(encoded("PNG", sixteen_bit())),
    "sixteen_bit.tif": holding(encoded("TIFF", sixteen_bit())),
    "plain.webp": holding(WEBP),
    "plain.bmp": holding(encoded("BMP")),
    "plain.tif": holding(encoded("TIFF")),
    "lzw.tiff": holding(encoded("TIFF", compression="tiff_lzw")),
    "camera.jpg": holding(camera_jpeg()),
    "two_ends.jpg": holding(JPEG + b"\xff\xd9"),
    "flipped_inside.jpg": holding(flipped(NOISE, len(NOISE) // 2)),
    "long_comment.png": holding(with_text(100_000)),
    "sixteen_bit_rgb.png": holding(sixteen_bit_rgb()),
    "frames.gif": frames("GIF"),
    "frames.webp": frames("WEBP"),
    "frames.png": frames("PNG"),
    "pages.tif": frames("TIFF"),
    "one_pixel.png": holding(encoded("PNG", Image.new("RGB", (1, 1), RED))),
    "line.png": holding(encoded("PNG", Image.new("RGB", (1, 5000), RED))),
    "column.png": holding(encoded("PNG", Image.new("RGB", (5000, 1), RED))),
    "broken_exif.jpg": holding(with_broken_exif()),
    "orientation_99.jpg": holding(
        encoded("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0")
    ),
    "broken_profile.jpg": holding(encoded("JPEG", icc_profile=b"not a profile")),
    "profile.jpg": holding(
        encoded("JPEG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    ),
    "new\nline\t'\"\x1b[31m.png": holding(PNG),
    "-leading dash.png": holding(PNG),
    "e\u0301 and \u00e9.png": holding(PNG),
    os.fsdecode(b"not utf-8 \xff.png"): holding(PNG),
    "n" * 251 + ".png": holding(PNG),
    "link.jpg": link_to("plain.jpg"),
}
"""File names and what writes them. Each must be decoded."""

BAD: dict[str, tuple[str, Write]] = {
    "empty.jpg": ("empty_file", holding(b"")),
    "header_only.jpg": ("not_an_image", holding(JPEG[:20])),
    "header_only.png": ("not_an_image", holding(PNG[:20])),
    "text.jpg": ("not_an_image", holding(b"This is no image.\n")),
    "page.jpg": ("not_an_image", holding(b"<!doctype html><title>404</title>")),
    "drawing.png": ("not_an_image", holding(b"<svg xmlns='http://www.w3.org/2000/svg'/>")),
    "postscript.jpg": ("not_an_image", holding(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")),
    "half.jpg": ("image_truncated", holding(NOISE[: len(NOISE) // 2])),
    "two_bytes_short.jpg": ("image_truncated", holding(NOISE[:-2])),
    "half.png": ("image_truncated", holding(PNG[: len(PNG) // 2])),
    "half.gif": ("image_truncated", holding(GIF[: len(GIF) // 2])),
    "half.bmp": ("image_truncated", holding(encoded("BMP")[:1500])),
    "damaged_pixels.png": ("image_corrupt", holding(flipped(PNG, PNG.index(b"IDAT") + 20))),
    "damaged_header.png": ("not_an_image", holding(flipped(PNG, 18))),
    "integers.tif": ("unsupported_mode", holding(encoded("TIFF", Image.new("I", (9, 9), 70_000)))),
    "half.webp": ("image_truncated", holding(WEBP[: len(WEBP) // 2])),
    "half.tif": ("image_truncated", holding(encoded("TIFF")[:1500])),
    "text_bomb.png": ("not_an_image", holding(with_text(100_000_000))),
    "bomb.gif": ("image_too_large", holding(claiming(GIF, 6, 65535, 65535))),
    "floats.tif": ("unsupported_mode", holding(encoded("TIFF", Image.new("F", (9, 9), 0.5)))),
    "bomb_10000.png": ("image_too_large", holding(one_bit_png(10_000))),
    "bomb_13000.png": ("image_too_large", holding(one_bit_png(13_000))),
    "bomb_30000.png": ("image_too_large", holding(one_bit_png(30_000))),
    "photo.avif": ("unsupported_format", holding(encoded("AVIF"))),
    "photo.jp2": ("unsupported_format", holding(encoded("JPEG2000"))),
    "photo.heic": ("unsupported_format", holding(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")),
    "photo.psd": ("unsupported_format", holding(b"8BPS\0\x01" + bytes(20))),
    "photo.jxl": ("unsupported_format", holding(b"\xff\x0a" + bytes(30))),
    "pipe.jpg": ("not_regular_file", lambda path: os.mkfifo(path)),
    "socket.jpg": ("not_regular_file", socket_file),
    "device.jpg": ("not_regular_file", link_to("/dev/zero")),
    "folder.jpg": ("is_directory", lambda path: path.mkdir()),
    "loop.jpg": ("symlink_loop", link_to("loop.jpg")),
    "dangling.jpg": ("not_found", link_to("nowhere.jpg")),
}
"""File names, the code that each must be refused with, and what writes them."""
