"""Thousands of damaged images: each is read or refused with a code; none crashes a decoder, hangs it, or does worse.

    python tests/data/fuzz_images.py --count 10000 --seed 0

Prints what became of them; ends with status 1 if a decoder crashed, hung or raised what is no ImageError.
"""

from __future__ import annotations

import argparse
import io
import random
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.data.decoding import check
from tests.data.odd_images import BAD, READABLE, encoded, noise
from tlkit.data.decode import check_file
from tlkit.data.decoders import Processes
from tlkit.data.header import Accepted
from tlkit.data.image_file import ImageError
from tlkit.data.ordered_map import map_in_order
from tlkit.data.preprocessing import Preprocessing
from tlkit.data.view import View

# As much as can be let in, so that as much as can be is tried.
PREPROCESSING = Preprocessing(
    (32, 32), (36, 36), "center", "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), ("AVIF", "JPEG2000"), (0.0, 1.0)
)
ACCEPTED = Accepted(more_formats=("AVIF", "JPEG2000"), float_range=(0.0, 1.0))
VIEWS = (
    View(PREPROCESSING),
    View(PREPROCESSING, truncated=True),
    View(PREPROCESSING, truncated=True, augment="strong", seed=1, epoch=2),
)
LARGEST_SEED = 20_000
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


def fuzz_image(data: bytes) -> None:
    """Read damaged bytes in every way there is. Raises what is no ImageError."""
    for job in (lambda file: check_file("fuzz", file, ACCEPTED), *(as_job(view) for view in VIEWS)):
        with suppress(ImageError):
            job(io.BytesIO(data))


def as_job(view: View):
    return lambda file: view("fuzz", file, bytes(32))


def seeds() -> list[bytes]:
    """Small images of every format, and odd ones."""
    small = noise(24, 18)
    formats = {
        "JPEG": {},
        "PNG": {},
        "WEBP": {},
        "BMP": {},
        "GIF": {},
        "TIFF": {},
        "AVIF": {},
        "JPEG2000": {},
        "MPO": {},
    }
    found = [encoded(format, small, **options) for format, options in formats.items()]
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"):
        found.append(encoded("TIFF", small.convert("1") if compression == "group4" else small, compression=compression))
    found.append(encoded("JPEG", small, progressive=True))
    found.append(encoded("WEBP", small, lossless=True))
    found.append(encoded("PNG", small.convert("P")))
    exif = Image.Exif()
    exif[0x0112] = 6
    found += [encoded(format, small, exif=exif) for format in ("JPEG", "PNG", "WEBP", "TIFF")]
    with tempfile.TemporaryDirectory() as folder:
        for number, write in enumerate([*READABLE.values(), *(write for _, write in BAD.values())]):
            path = Path(folder) / str(number)
            write(path)
            if path.is_file() and not path.is_symlink() and 0 < path.stat().st_size < LARGEST_SEED:
                found.append(path.read_bytes())
    return sorted(set(found))


def mutated(content: bytes, others: list[bytes], generator: random.Random) -> bytes:
    """The same with a few kinds of damage, mostly near its beginning, where headers are."""
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        near = generator.random() < 0.6
        place = generator.randrange(min(len(data), 200) if near else len(data)) if data else 0
        length = generator.choice((1, 2, 4, 8, 64))
        kind = generator.randrange(7)
        if kind == 0 and data:
            data[place] ^= 1 << generator.randrange(8)
        elif kind == 1:
            data[place : place + length] = bytes([generator.choice(INTERESTING)]) * length
        elif kind == 2:
            data[place : place + length] = generator.randbytes(length)
        elif kind == 3:
            del data[place : place + length]
        elif kind == 4:
            data[place:place] = data[place : place + length]
        elif kind == 5:
            other = generator.choice(others)
            start = generator.randrange(len(other))
            data[place : place + length] = other[start : start + length]
        else:
            del data[max(place, 20) :]
    fix = data[:8] == b"\x89PNG\r\n\x1a\n" and generator.random() < 0.7
    return with_valid_checksums(bytes(data)) if fix else bytes(data)


def with_valid_checksums(png: bytes) -> bytes:
    """A PNG whose damage its checksums do not show."""
    data, place = bytearray(png), 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(data)


def damaged_images(count: int, seed: int) -> Iterator[bytes]:
    """So many damaged images: a function of the seed."""
    originals = seeds()
    for number in range(count):
        generator = random.Random(f"{seed} {number}")
        yield mutated(generator.choice(originals), originals, generator)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for images that do what none may")
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder, closing(Processes()) as decoder:

        def try_one(item: tuple[int, bytes]) -> tuple[bytes, list[str], float]:
            number, data = item
            path = Path(folder) / str(number)
            path.write_bytes(data)
            began, found = time.monotonic(), []
            for job in (
                lambda: check(decoder, str(path), ACCEPTED),
                *(lambda v=v: decoder.load(str(path), v) for v in VIEWS),
            ):
                try:
                    job()
                    found.append("read")
                except ImageError as error:
                    found.append("crashed" if "crashed" in error.message else error.code)
                except Exception as error:
                    found.append(f"worse: {error}")
            path.unlink()
            return data, found, time.monotonic() - began

        items = enumerate(damaged_images(options.count, options.seed))
        for number, (data, found, seconds) in enumerate(
            map_in_order(try_one, items, workers=options.workers, ahead=64)
        ):
            outcomes.update(found)
            slowest = max(slowest, seconds)
            if options.keep and any(what in ("crashed", "decode_timeout") or "worse" in what for what in found):
                options.keep.mkdir(exist_ok=True)
                (options.keep / f"{options.seed}_{number}").write_bytes(data)
    for outcome, number in outcomes.most_common():
        print(f"{number:8,}  {outcome}")
    print(f"{options.count:,} images, each read in {1 + len(VIEWS)} ways; the slowest took {slowest:.2f} s")
    return int(any(what in ("crashed", "decode_timeout") or "worse" in what for what in outcomes))


if __name__ == "__main__":
    sys.exit(main())
