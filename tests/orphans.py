"""The launcher of several ranks killed at random instants, from the fork to the end: no process is left after 10 seconds.

    python tests/orphans.py [--kills 100] [--seed 0]

Every second launcher is killed within the first second after its first rank was forked, the others at any time of the
run. Two ranks and three take turns. Prints a line for each kill; exits non-zero if a process is left.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.conftest import BACKBONE, command, write_folder

SIZES = (2, 3)
MOST_SECONDS = 10.0
"""Seconds after which no process may be left."""

MARK = "TLKIT_TEST_ORPHANS"
"""An environment variable that every process of a job inherits."""

WORDS = ["--backbone", BACKBONE, "--weights", "none", "--image-size", "64", "--batch-size", "8", "--workers", "1",
         "--unfreeze", "layer4", "--epochs", "12", "--save-every", "0"]  # fmt: skip


def start(images: Path, run: Path, ranks: int) -> subprocess.Popen[bytes]:
    """Start a run of several ranks."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), MARK: str(run)}
    words = command("finetune", images, "--out", run, *WORDS, "--processes", ranks)
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def processes_of(run: Path) -> list[int]:
    """The processes of a job that are alive, by the variable that they have inherited."""
    found, mark = [], f"{MARK}={run}".encode()
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                is_zombie = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                if not is_zombie and mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
            except OSError:
                continue
    return found


def kill_one(images: Path, run: Path, ranks: int, at: float, after_fork: bool) -> tuple[int, float, list[int]]:
    """Kill a launcher `at` seconds after its start, or after its first rank was forked.

    Returns the number of processes it had, the seconds until all were gone, and the processes that were left.
    """
    process = start(images, run, ranks)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while after_fork and process.poll() is None and not children.read_text():
        time.sleep(0.001)
    time.sleep(at)
    there = processes_of(run)
    process.send_signal(signal.SIGKILL)
    process.wait()
    began = time.monotonic()
    while (left := processes_of(run)) and time.monotonic() - began < MOST_SECONDS:
        time.sleep(0.02)
    for number in left:
        os.kill(number, signal.SIGKILL)
    return len(there), time.monotonic() - began, left


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance, longest, orphans = random.Random(arguments.seed), 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        images, lasted = write_folder(Path(folder) / "images", 10), {}
        for ranks in SIZES:
            began = time.monotonic()
            if start(images, Path(folder) / f"whole{ranks}", ranks).wait():
                sys.exit("a run that is not killed fails")
            lasted[ranks] = time.monotonic() - began
        for number in range(arguments.kills):
            ranks, after_fork = SIZES[number // 2 % len(SIZES)], number % 2 == 0
            at = chance.uniform(0, 1.0 if after_fork else lasted[ranks])
            there, seconds, left = kill_one(images, Path(folder) / f"run{number}", ranks, at, after_fork)
            longest, orphans = max(longest, seconds), orphans + bool(left)
            since = "the fork" if after_fork else "the start"
            print(
                f"{ranks} ranks, {at:6.3f} s after {since}: {there} processes, gone after {seconds:.2f} s {left or ''}"
            )
    print(f"{arguments.kills} kills: {orphans} with processes left; the longest took {longest:.2f} s to end")
    return int(orphans > 0)


if __name__ == "__main__":
    sys.exit(main())
