"""Folders of unusual images, such as the test files of other programs: each is decoded or refused with a code.

    python tests/data/corpus.py FOLDER... [--refused] [--compare]

--refused lists every refusal with its reason. --compare decodes each image with OpenCV too, if installed, and lists
large differences. Ends with status 1 if a decoder crashed, hung, or raised anything but ImageError.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.data.decoding import check
from tlkit.data.decode import decode_file
from tlkit.data.decoders import Processes
from tlkit.data.header import Accepted
from tlkit.data.image_file import ImageError, open_regular
from tlkit.data.listing import find_images
from tlkit.data.preprocessing import Preprocessing
from tlkit.data.view import View

ACCEPTED = Accepted()
VIEW = View(Preprocessing((224, 224), (256, 256), "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
DIFFERENT = 4.0
"""Mean difference of all channels, of 255, from which a comparison is listed."""


def other_pixels(path: str) -> np.ndarray | None:
    """The first frame as OpenCV reads it, in a process of its own, uint8 [H, W, 3]; None if it does not."""
    program = (
        "import cv2, numpy, sys; numpy.save(sys.stdout.buffer, cv2.imread(sys.argv[1], cv2.IMREAD_COLOR)[..., ::-1])"
    )
    result = subprocess.run([sys.executable, "-c", program, path], capture_output=True)
    return None if result.returncode else np.load(io.BytesIO(result.stdout))


def difference(path: str) -> str:
    """A comparison with OpenCV, which ignores transparency and some EXIF orientations."""
    with open_regular(path) as file:
        ours = np.asarray(decode_file(path, file, ACCEPTED).image)
    theirs = other_pixels(path)
    if theirs is None:
        return "not read by the other"
    with Image.open(path) as image:
        if image.has_transparency_data:
            return "transparent, not compared"
    if ours.shape != theirs.shape:
        return f"other size: {ours.shape[1]} x {ours.shape[0]}, {theirs.shape[1]} x {theirs.shape[0]}"
    mean = float(np.abs(ours.astype(int) - theirs).mean())
    return f"differs by {mean:.1f}" if mean > DIFFERENT else "alike"


def all_files(folders: list[str]) -> Iterator[str]:
    for folder in folders:
        yield from find_images(folder) if os.path.isdir(folder) else [folder]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--refused", action="store_true")
    parser.add_argument("--compare", action="store_true")
    options = parser.parse_args()
    found: Counter[str] = Counter()
    compared: Counter[str] = Counter()
    slowest, slowest_path = 0.0, ""
    with closing(Processes()) as decoder:
        for path in all_files(options.folders):
            began = time.monotonic()
            try:
                check(decoder, path, ACCEPTED)
                decoder.load(path, VIEW)
                outcome = "read"
            except ImageError as error:
                outcome = "crashed" if "crashed" in error.message else error.code
                if options.refused:
                    print(f"{outcome}: {path}: {error.message}")
            except Exception as error:
                outcome = f"worse: {type(error).__name__}"
                print(f"{path}: {outcome}: {error}")
            found[outcome] += 1
            slowest, slowest_path = max((slowest, slowest_path), (time.monotonic() - began, path))
            if options.compare and outcome == "read":
                result = difference(path)
                compared[result.partition(":")[0] if ":" in result else result.partition(" by")[0]] += 1
                if result.startswith(("other", "differs")):
                    print(f"{result}: {path}")
    for outcome, number in [*found.most_common(), *compared.most_common()]:
        print(f"{number:8,}  {outcome}")
    print(f"{found.total():,} files; the slowest took {slowest:.2f} s ({slowest_path})")
    return int(any(outcome in ("crashed", "decode_timeout") or "worse" in outcome for outcome in found))


if __name__ == "__main__":
    sys.exit(main())
