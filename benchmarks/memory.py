"""Memory against the number of images, of predict and of finetune.

    python benchmarks/memory.py [--paths 100000]

predict: resident memory after 1,000 records and from there on, over links to a few images. finetune: the largest
resident memory for folders of more and more images. Both with the sample backbone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import threading
from pathlib import Path

from common import SAMPLE, TLKIT, list_images, run, table
from PIL import Image

BACKBONE = ["--backbone", "timm/test_byobnet", "--weights", SAMPLE / "backbone.safetensors"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, default=100_000)
    parser.add_argument("--images", type=int, nargs="*", default=[1000, 4000, 16000])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run([*TLKIT, "finetune", SAMPLE / "textures", *BACKBONE, "--out", folder / "run"], cache=folder / "cache")
        of_predict(folder, options.paths)
        of_finetune(folder, options.images)


def of_predict(folder: Path, count: int) -> None:
    """Feed links to a few small images through predict, and look at its memory on the way."""
    links = folder / "links"
    links.mkdir()
    sources = []
    for number, path in enumerate(list_images(SAMPLE / "unlabelled")):
        sources.append(folder / f"small{number}.jpg")
        Image.open(path).resize((64, 64)).save(sources[-1])
    names = []
    for number in range(count):
        names.append(links / f"{number:07d}.jpg")
        os.symlink(sources[number % len(sources)], names[-1])
    command = [*map(str, TLKIT), "predict", str(folder / "run"), "-"]
    rows = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        writer = threading.Thread(target=feed, args=(process, names))
        writer.start()
        for number, _ in enumerate(process.stdout, start=1):
            if number == 1000 or number % max(1, count // 10) == 0:
                rows.append((number, resident(process.pid)))
        writer.join()
    first = rows[0][1]
    table(
        ("predict: records", "resident, MB", "grown since 1,000, MB"),
        *((number, f"{size / 1e6:.1f}", f"{(size - first) / 1e6:+.1f}") for number, size in rows),
    )


def feed(process: subprocess.Popen[bytes], names: list[Path]) -> None:
    assert process.stdin is not None
    for path in names:
        process.stdin.write(os.fsencode(path) + b"\n")
    process.stdin.close()


def resident(process: int) -> int:
    """Bytes of memory that a process has."""
    with open(f"/proc/{process}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def of_finetune(folder: Path, counts: list[int]) -> None:
    """The largest memory of runs on folders of copies that differ in a byte."""
    rows: list[tuple[int, int]] = []
    for count in counts:
        data = folder / f"data{count}"
        for number in range(count):
            target = data / f"class{number % 2}" / f"{number:06d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((folder / f"small{number % 5}.jpg").read_bytes() + number.to_bytes(4, "little"))
        out = folder / f"run{count}"
        ended = run([*TLKIT, "finetune", data, *BACKBONE, "--epochs", 2, "--out", out], cache=folder / "cache")
        rows.append((count, ended.memory))
    first = rows[0]
    table(
        ("finetune: images", "largest, MB", "KB for each image more"),
        *(
            (
                count,
                f"{size / 1e6:.0f}",
                f"{(size - first[1]) / 1e3 / (count - first[0]):.2f}" if count > first[0] else "",
            )
            for count, size in rows
        ),
    )


if __name__ == "__main__":
    main()
