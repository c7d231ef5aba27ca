"""Memory against the number of images, of predict and of finetune, in one table.

    python benchmarks/memory.py [--images FOLDER] [--paths 100000] [--finetune 1000 4000 16000]

predict: resident memory of one command after 1,000 records and every 10,000, over a list of paths (links to a few
images) on standard input. finetune: the largest resident memory of a run of two epochs on folders of more and more
images. Both with the sample backbone and small images, so that what grows is seen.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import IO

from common import SAMPLE, SAMPLE_BACKBONE, SAMPLE_WEIGHTS, TLKIT, environment, link, list_images, run, table
from PIL import Image

FLAGS = ["--backbone", SAMPLE_BACKBONE, "--weights", SAMPLE_WEIGHTS]
FIRST = 1_000
"""Records after which everything that a command needs is there."""
Row = tuple[int, int]
"""Images so far, and bytes of memory."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=SAMPLE / "textures")
    parser.add_argument("--paths", type=int, default=100_000, help="records of predict")
    parser.add_argument("--every", type=int, default=10_000, help="records between two looks at the memory of predict")
    parser.add_argument("--finetune", type=int, nargs="*", default=[1000, 4000, 16000], help="images of each folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = small_copies(options.images, folder)
        predicted = memory_of_predict(options, sources, folder)
        trained = [(count, memory_of_finetune(count, sources, folder)) for count in options.finetune]
    rows = [("predict, resident", *row) for row in grown(predicted)]
    rows += [("finetune, largest", *row) for row in grown(trained)]
    table(("command", "images", "MB", "grown since the first, MB", "bytes for each image more"), *rows)


def small_copies(images: Path, folder: Path) -> list[Path]:
    """A few of the images, evenly taken, at 64 x 64 pixels."""
    every = list_images(images)
    paths = []
    for number, path in enumerate(every[:: max(1, len(every) // 10)][:10]):
        paths.append(folder / f"small{number}.jpg")
        Image.open(path).convert("RGB").resize((64, 64)).save(paths[-1])
    return paths


def memory_of_predict(options: argparse.Namespace, sources: list[Path], folder: Path) -> list[Row]:
    """Feed links to a few images through predict, and look at its memory on the way."""
    run([*TLKIT, "finetune", options.images, *FLAGS, "--out", folder / "run"], cache=folder / "cache")
    links = [link(sources[number % len(sources)], folder / "links", number) for number in range(options.paths)]
    command = [*TLKIT, "predict", str(folder / "run"), "-"]
    rows: list[Row] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdin and process.stdout
        listing = b"".join(os.fsencode(path) + b"\n" for path in links)
        writer = threading.Thread(target=feed, args=(process.stdin, listing))
        writer.start()
        for number, _ in enumerate(process.stdout, start=1):
            if number == FIRST or number % options.every == 0:
                rows.append((number, resident(process.pid)))
            if number == options.paths:
                break
        writer.join()
        process.stdin.close()  # only now: a command that sees the end of its list is gone before one can look
    if process.returncode or number != options.paths:
        raise RuntimeError(f"predict ended with {process.returncode}")
    return rows


def feed(stream: IO[bytes], listing: bytes) -> None:
    """Write all paths while records are read."""
    with contextlib.suppress(BrokenPipeError):  # a command that fails is told of by its exit status
        stream.write(listing)
        stream.flush()


def resident(process: int) -> int:
    """Bytes of memory that a process has."""
    with open(f"/proc/{process}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_of_finetune(count: int, sources: list[Path], folder: Path) -> int:
    """The largest memory of a run on so many copies that differ in what follows the picture, with an empty store."""
    contents = [path.read_bytes() for path in sources]
    with tempfile.TemporaryDirectory(dir=folder) as name:
        data = Path(name) / "data"
        for number in range(count):
            target = data / f"class{number % 2}" / f"{number:06d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(contents[number % len(contents)] + number.to_bytes(4, "little"))
        command = [*TLKIT, "finetune", data, *FLAGS, "--epochs", 2, "--out", Path(name) / "run"]
        return run(command, cache=Path(name) / "cache").memory


def grown(rows: list[Row]) -> list[tuple[str, ...]]:
    """Cells of each row, with the growth since the first."""
    found = []
    for count, size in rows:
        first_count, first_size = rows[0]
        more = size - first_size
        each = f"{more / (count - first_count):,.0f}" if count > first_count else ""
        found.append((f"{count:,}", f"{size / 1e6:,.1f}", f"{more / 1e6:+,.1f}", each))
    return found


if __name__ == "__main__":
    main()
