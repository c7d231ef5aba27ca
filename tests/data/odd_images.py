"""Files as users' folders hold them: odd ones that must be read, and bad ones that must be named."""

from __future__ import annotations

import io
import os
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

Write = Callable[[Path], None]
HEIF_CODE = "not_an_image" if find_spec("pillow_heif") else "unsupported_format"
"""Of a damaged HEIC, with and without the extra that reads it."""

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


def rgb_png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits for each of three channels, which Pillow cannot write. values: uint16 [H, W, 3]."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
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


def gray_tiff(order: str, photometric: int, bits: int, **changes: int) -> bytes:
    """An uncompressed gray TIFF of 16 x 8 pixels, a ramp from the smallest to the largest value. changes: of tags."""
    values = np.tile(np.linspace(0, 2**bits - 1, 16).round(), (8, 1))
    content = values.astype(f"{order}u{bits // 8}").tobytes()
    tags = {"WIDTH": 16, "HEIGHT": 8, "BITS": bits, "COMPRESSION": 1, "PHOTOMETRIC": photometric, "OFFSETS": 8,
            "SAMPLES": 1, "ROWS": 8, "BYTES": len(content)} | changes  # fmt: skip
    numbers = {"WIDTH": 256, "HEIGHT": 257, "BITS": 258, "COMPRESSION": 259, "PHOTOMETRIC": 262, "OFFSETS": 273,
               "SAMPLES": 277, "ROWS": 278, "BYTES": 279, "SUB_IFDS": 330,
               "SAMPLE_FORMAT": 339, "DNG_VERSION": 50706}  # fmt: skip
    entries = b"".join(
        struct.pack(f"{order}HHII", number, 4, 1, tags[name]) for name, number in numbers.items() if name in tags
    )
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(content))
    return head + content + struct.pack(f"{order}H", len(entries) // 12) + entries + bytes(4)


def preview_of_camera_raw(order: str) -> bytes:
    """A TIFF as NEF and ARW are: its page is a preview, and a directory below it describes the pixels of the sensor."""
    length = len(gray_tiff(order, 1, 8, SUB_IFDS=0))
    sensor = gray_tiff(order, 32803, 16)
    start = struct.unpack_from(f"{order}I", sensor, 4)[0]
    return gray_tiff(order, 1, 8, SUB_IFDS=length) + sensor[start:]


def pages_tiff(count: int) -> bytes:
    """A TIFF with so many pages, all with the pixels of the first one."""
    first = gray_tiff("<", 1, 8)
    start = int.from_bytes(first[4:8], "little")
    directory = first[start:-4]
    ends = [start + k * (len(directory) + 4) for k in range(1, count)] + [0]
    return first[:start] + b"".join(directory + struct.pack("<I", end) for end in ends)


def many_scans(count: int) -> bytes:
    """A progressive JPEG that says so many times how its first scan goes on."""
    content = encoded("JPEG", Image.fromarray(pixels()).convert("L"), progressive=True)
    start = content.rindex(b"\xff\xda")
    return content[:start] + content[start:-2] * count + content[-2:]


def jpeg_frame(marker: int, bits: int = 8) -> bytes:
    """A JPEG whose header says another process or depth."""
    start = JPEG.index(b"\xff\xc0")
    return JPEG[: start + 1] + bytes([marker]) + JPEG[start + 2 : start + 4] + bytes([bits]) + JPEG[start + 5 :]


def zip_file(*names: str) -> bytes:
    """A zip archive with these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "content")
    return buffer.getvalue()


def with_brands(*brands: bytes) -> bytes:
    """The start of a file of the ISO base media format."""
    return struct.pack(">I", 12 + 4 * len(brands)) + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:]) + bytes(99)


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
    "plain.ppm": picture("RGB", "PPM"),
    "plain.pgm": picture("L", "PPM"),
    "plain.pbm": picture("1", "PPM"),
    "in_words.pgm": holding(b"P2 # a comment\n3 2 9\n0 1 2\n7 8 9\n"),
    "white_is_100.pgm": holding(b"P5 4 1 100\n" + bytes([0, 50, 99, 100])),
    "white_is_4095.pgm": holding(b"P5 4 1 4095\n" + struct.pack(">4H", 0, 2048, 4000, 4095)),
    "white_is_zero.tif": holding(gray_tiff("<", 0, 16)),
    "white_is_zero_big_endian.tif": holding(gray_tiff(">", 0, 16)),
    "plain.webp": holding(WEBP),
    "plain.bmp": holding(encoded("BMP")),
    "plain.tif": holding(encoded("TIFF")),
    "lzw.tiff": holding(encoded("TIFF", compression="tiff_lzw")),
    "camera.jpg": holding(camera_jpeg()),
    "two_ends.jpg": holding(JPEG + b"\xff\xd9"),
    "flipped_inside.jpg": holding(flipped(NOISE, len(NOISE) // 2)),
    "long_comment.png": holding(with_text(100_000)),
    "text_bomb.png": holding(with_text(100_000_000)),
    "sixteen_bit_rgb.png": holding(rgb_png(pixels().astype(np.uint16) * 257)),
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
    "bomb.gif": ("image_too_large", holding(claiming(GIF, 6, 65535, 65535))),
    "floats.tif": ("unsupported_mode", holding(encoded("TIFF", Image.new("F", (9, 9), 0.5)))),
    "bomb_10000.png": ("image_too_large", holding(one_bit_png(10_000))),
    "bomb_13000.png": ("image_too_large", holding(one_bit_png(13_000))),
    "bomb_30000.png": ("image_too_large", holding(one_bit_png(30_000))),
    "photo.avif": ("unsupported_format", holding(encoded("AVIF"))),
    "photo.jp2": ("unsupported_format", holding(encoded("JPEG2000"))),
    "half.ppm": ("image_truncated", holding(encoded("PPM")[:1500])),
    "half.pgm": ("image_truncated", holding(b"P5 4 2 100\n" + bytes(5))),
    "twelve_bits.jpg": ("unsupported_mode", holding(jpeg_frame(0xC1, bits=12))),
    "lossless.jpg": ("unsupported_mode", holding(jpeg_frame(0xC3))),
    "hierarchical.jpg": ("unsupported_mode", holding(jpeg_frame(0xC5))),
    "many_scans.jpg": ("unsupported_mode", holding(many_scans(2000))),
    "signed.tif": ("unsupported_mode", holding(gray_tiff("<", 1, 8, SAMPLE_FORMAT=2))),
    "jpeg_2000.tif": ("unsupported_mode", holding(gray_tiff("<", 1, 8, COMPRESSION=34712))),
    "log.tif": ("unsupported_mode", holding(gray_tiff("<", 32844, 16))),
    "developed.dng": ("unsupported_format", holding(gray_tiff("<", 1, 8, DNG_VERSION=4))),
    "sensor.nef": ("unsupported_format", holding(gray_tiff(">", 32803, 16))),
    "preview.nef": ("unsupported_format", holding(preview_of_camera_raw(">"))),
    "preview.arw": ("unsupported_format", holding(preview_of_camera_raw("<"))),
    "photo.cr2": ("unsupported_format", holding(b"II*\0\x10\0\0\0CR\x02\0" + bytes(30))),
    "photo.raf": ("unsupported_format", holding(b"FUJIFILMCCD-RAW 0201" + bytes(30))),
    "photo.cr3": ("unsupported_format", holding(with_brands(b"crx ", b"crx ", b"isom"))),
    "photo.dcm": ("unsupported_format", holding(bytes(128) + b"DICM" + bytes(30))),
    "damaged.heic": (HEIF_CODE, holding(with_brands(b"heic", b"mif1", b"heic"))),
    "burst.heic": (HEIF_CODE, holding(with_brands(b"heix", b"mif1", b"heix"))),
    "general.hif": (HEIF_CODE, holding(with_brands(b"mif1", b"heic"))),
    "still.hif": (HEIF_CODE, holding(with_brands(b"msf1", b"hevc"))),
    "avif_by_its_second_brand.avif": ("unsupported_format", holding(with_brands(b"mif1", b"avif"))),
    "clip.jpg": ("not_an_image", holding(with_brands(b"isom", b"mp41"))),
    "pointer.jpg": ("not_an_image", holding(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n")),
    "document.jpg": ("not_an_image", holding(b"%PDF-1.7\n")),
    "letter.jpg": ("not_an_image", holding(zip_file("[Content_Types].xml", "word/document.xml"))),
    "archive.jpg": ("not_an_image", holding(zip_file("photo.jpg"))),
    "old_letter.jpg": ("not_an_image", holding(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99))),
    "zeros.jpg": ("not_an_image", holding(bytes(5000))),
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
