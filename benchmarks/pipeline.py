"""predict on long lists: records a second, order, and memory that does not grow, in one table.

    python benchmarks/pipeline.py [--missing 1000000] [--images FOLDER] [--links 100000]

Each row is one command with a list of paths on standard input and records of jsonl read from standard output: paths
that lead nowhere, which cost what a record costs by itself, and links to a few small images, with the sample backbone.
The reader counts lines and looks whether each has the number and the path of its place. *bare* is a Python loop that
takes the same list, finds out that nothing is there, and writes such records. Resident memory is looked at after 10,000
records and when all are there. Seconds begin with the first record, so that starting up does not count.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import SAMPLE, SAMPLE_BACKBONE, SAMPLE_WEIGHTS, TLKIT, environment, link, run, table
from memory import feed, resident, small_copies

EARLY = 10_000
"""Records after which memory is first looked at."""
BARE = """
import json, os, sys
for number, line in enumerate(sys.stdin):
    path = line[:-1]
    if not os.path.exists(path):
        error = {"code": "not_found", "message": "no such file"}
        sys.stdout.write(json.dumps({"v": 1, "i": number, "path": path, "status": "error", "error": error}) + "\\n")
        sys.stdout.flush()
sys.stdout.flush()
sys.stdin.read()
"""


@dataclass(frozen=True)
class Read:
    """What a reader of all records saw. Memory in bytes."""

    seconds: float
    early: int
    late: int
    in_order: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--missing", type=int, default=1_000_000, help="paths that lead nowhere")
    parser.add_argument("--images", type=Path, default=SAMPLE / "textures")
    parser.add_argument("--links", type=int, default=100_000, help="paths that lead to images; 0: none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = ["--backbone", SAMPLE_BACKBONE, "--weights", SAMPLE_WEIGHTS, "--out", folder / "run"]
        run([*TLKIT, "finetune", options.images, *flags], cache=folder / "cache")
        predict = [*TLKIT, "predict", folder / "run", "-", "--format", "jsonl"]
        missing = [f"{folder}/missing/{number:07d}.jpg" for number in range(options.missing)]
        rows = [cells("bare, nothing there", missing, read([sys.executable, "-c", BARE], missing))]
        rows.append(cells("predict, nothing there", missing, read(predict, missing)))
        if options.links:
            sources = small_copies(options.images, folder)
            links = [str(link(sources[n % len(sources)], folder / "links", n)) for n in range(options.links)]
            rows.append(cells("predict, images", links, read(predict, links)))
    memory = (f"MB after {EARLY:,}", "MB at the end", "grown, MB")
    table(("list", "records", "seconds", "records/s", *memory, "in order"), *rows)


def read(command: Sequence[object], paths: list[str]) -> Read:
    """Run a command over a list and read all its records. Raises RuntimeError if one is missing."""
    listing = "".join(path + "\n" for path in paths).encode()
    early, in_order = 0, True
    with subprocess.Popen(
        list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdin and process.stdout
        writer = threading.Thread(target=feed, args=(process.stdin, listing))
        writer.start()
        began = time.perf_counter()
        for place, (path, line) in enumerate(zip(paths, process.stdout, strict=False)):
            if place == 0:
                began = time.perf_counter()
            if place == EARLY:
                early = resident(process.pid)
            record = line.replace(b" ", b"")
            in_order = in_order and record.startswith(f'{{"v":1,"i":{place},"path":"{path}"'.encode())
        seconds = time.perf_counter() - began
        writer.join()
        late = resident(process.pid)
        process.stdin.close()  # only now: a command that sees the end of its list is gone before one can look
        if place + 1 != len(paths) or process.stdout.read():
            raise RuntimeError(f"{place + 1:,} records of {len(paths):,} inputs")
    return Read(seconds, early, late, in_order)


def cells(name: str, paths: list[str], found: Read) -> tuple[str, ...]:
    """A row of the table."""
    megabytes = [f"{size / 1e6:,.1f}" for size in (found.early, found.late)]
    rate = f"{len(paths) / found.seconds:,.0f}"
    grown = f"{(found.late - found.early) / 1e6:+,.1f}"
    return name, f"{len(paths):,}", f"{found.seconds:,.1f}", rate, *megabytes, grown, "yes" if found.in_order else "NO"


if __name__ == "__main__":
    main()
