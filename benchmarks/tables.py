"""Read, check and split a table of a million images: seconds and peak memory.

    python benchmarks/tables.py [--rows 1000000]

The images are empty files, as the table is read without opening them. The reading runs in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

PROGRAM = """
import resource, sys, time
from tlkit.data.sources import find_dataset
from tlkit.options import CheckOptions
started, cpu = time.perf_counter(), time.process_time()
dataset = find_dataset(CheckOptions(data=sys.argv[1]))
seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
images = len(dataset.train) + len(dataset.val)
print(f"{images:,} rows, {len(dataset.classes):,} classes, {len(dataset.val):,} for validation: "
      f"{seconds:.1f} s ({cpu:.1f} s of CPU), {peak:,.0f} MiB")
"""


def write_files(root: str, rows: int) -> list[str]:
    """Create the image files. Returns their names."""
    names = []
    for start in range(0, rows, 1000):
        folder = f"images/{start // 1000:04d}"
        os.makedirs(os.path.join(root, folder))
        for number in range(start, min(start + 1000, rows)):
            names.append(f"{folder}/image_{number:07d}.jpg")
            os.close(os.open(os.path.join(root, names[-1]), os.O_CREAT | os.O_WRONLY))
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        began = time.perf_counter()
        names = write_files(root, arguments.rows)
        print(f"{len(names):,} files written in {time.perf_counter() - began:.0f} s", flush=True)
        for title, header, more in (
            ("path,label", "path,label", lambda number: ""),
            ("with a group of 5 images each", "path,label,group", lambda number: f",patient{number // 5}"),
            ("with a group for each image", "path,label,group", lambda number: f",patient{number}"),
        ):
            table = os.path.join(root, "table.csv")
            with open(table, "w") as file:
                file.write(header + "\n")
                for number, name in enumerate(names):
                    file.write(f"{name},class_{number % arguments.classes:04d}{more(number)}\n")
            print(f"{title}: ", end="", flush=True)
            subprocess.run([sys.executable, "-c", PROGRAM, table], check=True)


if __name__ == "__main__":
    main()
