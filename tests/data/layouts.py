"""Pixel layouts of TIFF and PNG, from known samples: each is decoded to the right pixels or refused as unsupported.

    python tests/data/layouts.py --count 5000 --seed 0

TIFF files are written by tifffile (with imagecodecs, if it is installed: more compressions and depths), PNG files by
this script. Prints what became of them; ends with status 1 if pixels were wrong, or if a valid file was called damaged.
"""

from __future__ import annotations

import argparse
import io
import random
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))

from tlkit.data.decode import decode_file
from tlkit.data.header import Accepted
from tlkit.data.image_file import ImageError

try:
    import imagecodecs  # noqa: F401 - tifffile uses it

    COMPRESSIONS: tuple[str, ...] = ("", "zlib", "lzw", "packbits", "zstd", "lzma", "jpeg2000", "webp", "png", "lerc")
except ImportError:
    COMPRESSIONS = ("", "zlib")

Samples = NDArray[np.generic]
TOLERANCE = 2.0
"""Largest accepted difference of a channel, of 255: other programs round and truncate in other places."""


@dataclass(frozen=True)
class Layout:
    """A valid file, its description, and the pixels that it shows, float [H, W, 3] from 0 to 255.

    accepted: the options with which it is read.
    """

    name: str
    content: bytes
    shown: NDArray[np.float64]
    accepted: Accepted = Accepted()
    tolerance: float = TOLERANCE


def random_samples(chance: random.Random, shape: tuple[int, ...], largest: int) -> NDArray[np.int64]:
    """Integers from 0 to `largest`: a ramp in each channel, with noise, so that swapped bytes and channels show."""
    generator = np.random.default_rng(chance.randrange(1 << 32))
    ramp = np.linspace(0, largest, shape[1])[None, :, None] * np.linspace(1, 0.3, shape[2])[None, None, :]
    noise = generator.uniform(-0.1, 0.1, shape) * largest
    return (ramp + noise).round().clip(0, largest).astype(np.int64)


def on_white(color: NDArray[np.float64], alpha: NDArray[np.float64]) -> NDArray[np.float64]:
    return color * alpha + 255 * (1 - alpha)


def shown_pixels(kind: str, share: NDArray[np.float64]) -> NDArray[np.float64]:
    """What samples from 0 to 1, [H, W, C], look like in RGB."""
    if kind == "miniswhite":
        return np.repeat(255 * (1 - share[..., :1]), 3, 2)
    if kind.startswith("minisblack"):
        grey = np.repeat(255 * share[..., :1], 3, 2)
        return on_white(grey, share[..., 1:2]) if kind.endswith("+unassalpha") else grey
    if kind == "separated":
        return 255 * (1 - share[..., :3]) * (1 - share[..., 3:4])
    color = 255 * share[..., :3]
    if kind.endswith("+unassalpha"):
        return on_white(color, share[..., 3:4])
    return color + 255 * (1 - share[..., 3:4]) if kind.endswith("+assocalpha") else color


CHANNELS = {
    "miniswhite": 1, "minisblack": 1, "minisblack+unassalpha": 2, "minisblack+unspecified": 2, "rgb": 3,
    "rgb+unassalpha": 4, "rgb+assocalpha": 4, "rgb+unspecified": 4, "separated": 4, "palette": 1, "signed": 1,
    "float": 1, "float_white": 1, "ycbcr": 3,
}  # fmt: skip


def tiff_layout(chance: random.Random) -> Layout:
    """A random valid TIFF file."""
    kind = chance.choice(list(CHANNELS))
    bits = chance.choice((1, 2, 4, 8, 8, 10, 12, 14, 16, 16, 16, 32))
    if kind == "ycbcr":
        bits = 8
    if kind == "palette":
        bits = chance.choice((1, 2, 4, 8, 8, 16))
    height, width = chance.randint(1, 40), chance.randint(1, 50)
    options: dict[str, object] = {
        "byteorder": chance.choice("<>"),
        "compression": chance.choice(COMPRESSIONS) or None,
        "bigtiff": chance.random() < 0.1,
        "metadata": None,
    }
    if chance.random() < 0.4:
        options["tile"] = (16 * chance.randint(1, 3), 16 * chance.randint(1, 3))
    elif chance.random() < 0.7:
        options["rowsperstrip"] = chance.randint(1, height + 3)
    if options["compression"] in ("zlib", "lzw", "zstd") and chance.random() < 0.5:
        options["predictor"] = True
    channels = CHANNELS[kind]
    largest = 2**bits - 1
    samples = random_samples(chance, (height, width, channels), largest)
    photometric, _, extra = kind.partition("+")
    if extra == "assocalpha":
        samples[..., :3] = np.minimum(samples[..., :3], samples[..., 3:])
    share = samples / largest
    shown = shown_pixels(kind, share)
    accepted, tolerance = Accepted(), 3.0 if kind == "separated" else TOLERANCE
    if bits == 16 and kind in ("minisblack", "miniswhite", "rgb", "rgb+unassalpha") and chance.random() < 0.4:
        black, white = chance.randint(0, 20_000), chance.randint(25_000, 65_535)
        accepted = Accepted(integer_range=(black, white))
        stretched = ((samples - black) / (white - black)).clip(0, 1)
        stretched[..., 3:] = share[..., 3:]
        shown = shown_pixels(kind, stretched)
    dtype: type[np.generic] = np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32
    stored: Samples = samples.astype(dtype)
    if kind == "signed":
        dtype = {8: np.int8, 16: np.int16, 32: np.int32}[bits] if bits in (8, 16, 32) else np.int16
        stored, photometric, bits = (samples // 2).astype(dtype), "minisblack", 8 * np.dtype(dtype).itemsize
        accepted = Accepted(float_range=(0, largest / 2))
        shown = shown_pixels("minisblack", (samples // 2) / (largest / 2))
    elif kind.startswith("float"):
        dtype = chance.choice((np.float16, np.float32, np.float64))
        stored, bits = share.astype(dtype), 8 * np.dtype(dtype).itemsize
        photometric = "miniswhite" if kind == "float_white" else "minisblack"
        options.pop("predictor", None)
        accepted = Accepted(float_range=(0, 1))
        shown = shown_pixels(photometric, share)
    elif kind == "palette":
        generator = np.random.default_rng(chance.randrange(1 << 32))
        colors = generator.integers(0, 256, (3, 2**bits))
        options["colormap"] = (colors * chance.choice((1, 257, 257))).astype(np.uint16)
        shown = colors.T[samples[..., 0]].astype(np.float64)
    elif kind == "ycbcr":
        y, cb, cr = (share[..., k] * 255 for k in range(3))
        shown = np.stack(
            [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)], 2
        ).clip(0, 255)
        options["subsampling"] = (1, 1)
        tolerance = 4.0
    if bits not in (8, 16, 32, 64):
        options["bitspersample"] = bits
    if bits == 1:
        stored = stored.astype(bool) if channels == 1 and kind != "palette" else stored
        if stored.dtype == bool:
            options.pop("bitspersample", None)
    planar = channels > 1 and chance.random() < 0.4
    if channels > 1:
        options["planarconfig"] = "separate" if planar else "contig"
    if extra:
        options["extrasamples"] = [extra]
    data = np.moveaxis(stored, 2, 0) if planar else stored if channels > 1 else stored[..., 0]
    file = io.BytesIO()
    tifffile.imwrite(file, data, photometric=photometric, **options)
    plain = {name: value for name, value in options.items() if value and name not in ("metadata", "colormap")}
    return Layout(f"TIFF {kind} {bits} bits {plain} {width}x{height}", file.getvalue(), shown, accepted, tolerance)


def chunk(name: bytes, content: bytes) -> bytes:
    """A PNG chunk: length, name, content, checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


PNG_KINDS = {0: (1, (1, 2, 4, 8, 16)), 2: (3, (8, 16)), 3: (1, (1, 2, 4, 8)), 4: (2, (8, 16)), 6: (4, (8, 16))}
"""Color type -> (channels, depths)."""

ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""(first row, first column, row step, column step) of each pass."""


def packed_row(row: NDArray[np.int64], bits: int) -> bytes:
    """Samples of a row, most significant bits first."""
    if bits == 16:
        return row.astype(">u2").tobytes()
    if bits == 8:
        return row.astype(np.uint8).tobytes()
    digits = (row.reshape(-1, 1) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(digits.reshape(-1).astype(np.uint8)).tobytes()


def png_layout(chance: random.Random) -> Layout:
    """A random valid PNG file."""
    color = chance.choice(list(PNG_KINDS))
    channels, depths = PNG_KINDS[color]
    bits = chance.choice(depths)
    height, width, largest = chance.randint(1, 40), chance.randint(1, 50), 2**bits - 1
    samples = random_samples(chance, (height, width, channels), largest)
    generator = np.random.default_rng(chance.randrange(1 << 32))
    interlaced = chance.random() < 0.4
    alpha: NDArray[np.float64] = np.ones((height, width, 1))
    before = b""
    if color == 3:
        colors = generator.integers(0, 256, (2**bits, 3))
        before += chunk(b"PLTE", colors.astype(np.uint8).tobytes())
        base = colors[samples[..., 0]].astype(np.float64)
        if chance.random() < 0.5:
            opacity = generator.integers(0, 256, 2**bits)
            before += chunk(b"tRNS", opacity.astype(np.uint8).tobytes())
            alpha = opacity[samples[..., 0]][..., None] / 255
    else:
        base = 255 * samples / largest
        base = np.repeat(base[..., :1], 3, 2) if channels < 3 else base[..., :3]
        if color in (4, 6):
            alpha = samples[..., -1:] / largest
        elif chance.random() < 0.5:
            hidden = samples[chance.randrange(height), chance.randrange(width)]
            before += chunk(b"tRNS", hidden.astype(">u2").tobytes())
            alpha = (samples != hidden).any(2, keepdims=True).astype(np.float64)
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    parts = (samples[first::down, left::across] for first, left, down, across in passes)
    rows = b"".join(b"\0" + packed_row(row, bits) for part in parts if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, int(interlaced))
    content = chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    hidden_color = "tRNS, " if b"tRNS" in before else ""
    name = f"PNG color type {color}, {bits} bits, {hidden_color}interlaced {interlaced}, {width}x{height}"
    return Layout(name, b"\x89PNG\r\n\x1a\n" + content, on_white(base, alpha))


MAKERS: tuple[Callable[[random.Random], Layout], ...] = (tiff_layout, tiff_layout, tiff_layout, png_layout)


def layouts(count: int, seed: int) -> list[Layout]:
    """So many valid files, a function of the seed; combinations that tifffile cannot write are left out."""
    found = []
    for number in range(count):
        chance = random.Random(f"{seed} {number}")
        try:
            found.append(chance.choice(MAKERS)(chance))
        except Exception:  # tifffile and imagecodecs refuse in many ways
            continue
    return found


def outcome(layout: Layout) -> str:
    """right, wrong, or the code."""
    try:
        image = decode_file("layout", io.BytesIO(layout.content), layout.accepted).image
    except ImageError as error:
        return error.code
    decoded = np.asarray(image).astype(np.float64)
    if decoded.shape != layout.shown.shape:
        return "wrong"
    return "right" if np.abs(decoded - layout.shown).max() <= layout.tolerance else "wrong"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=20, help="faults to print")
    options = parser.parse_args()
    found: Counter[str] = Counter()
    faults = 0
    for layout in layouts(options.count, options.seed):
        result = outcome(layout)
        found[f"{layout.name[:4]} {result}"] += 1
        if result not in ("right", "unsupported_mode", "unsupported_format"):
            faults += 1
            if faults <= options.show:
                print(f"{result}: {layout.name}")
    for name, number in sorted(found.items()):
        print(f"{number:8,}  {name}")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
