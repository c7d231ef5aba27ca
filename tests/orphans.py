"""The launcher of several ranks killed at random instants, from the fork to the end: no process is left 10 s later.

    python tests/orphans.py [--kills 100] [--seed 0]

A launcher is killed around the fork of its ranks, within a second after all of them exist, or at any time of the run.
Two ranks and three take turns. Prints a line for each kill; exits non-zero if a process is left.
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
from tests.ranked import ranks_of

SIZES = (2, 3)
INSTANTS = ("it announces its ranks", "all ranks exist", "its start")
MOST_SECONDS = 10.0
"""Seconds after which no process may be left."""

MARK = "TLKIT_TEST_ORPHANS"
"""An environment variable that every process of a job inherits."""

WORDS = ["--backbone", BACKBONE, "--weights", "none", "--image-size", "64", "--batch-size", "8", "--workers", "1",
         "--unfreeze", "layer4", "--epochs", "12", "--save-every", "0"]  # fmt: skip


def start(images: Path, run: Path, ranks: int) -> subprocess.Popen[str]:
    """Start a run of several ranks."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), MARK: str(run)}
    words = command("finetune", images, "--out", run, *WORDS, "--processes", ranks)
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


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


def wait_until(since: str, process: subprocess.Popen[str], ranks: int) -> None:
    """Wait for one of INSTANTS."""
    if since == "its start":
        return
    assert process.stderr
    while line := process.stderr.readline():
        if line.startswith("launch"):
            break
    while since == "all ranks exist" and len(ranks_of(process)) < ranks:
        assert process.poll() is None


def kill_one(images: Path, run: Path, ranks: int, since: str, at: float) -> tuple[int, float, list[int]]:
    """Kill a launcher `at` seconds after one of INSTANTS.

    Returns the number of processes it had, the seconds until all were gone, and the processes that were left.
    """
    process = start(images, run, ranks)
    wait_until(since, process, ranks)
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
            whole = start(images, Path(folder) / f"whole{ranks}", ranks)
            if whole.communicate() and whole.returncode:
                sys.exit("a run that is not killed fails")
            lasted[ranks] = time.monotonic() - began
        for number in range(arguments.kills):
            ranks, since = SIZES[number % len(SIZES)], INSTANTS[number // len(SIZES) % len(INSTANTS)]
            at = chance.uniform(0, lasted[ranks] if since == "its start" else 1.0)
            there, seconds, left = kill_one(images, Path(folder) / f"run{number}", ranks, since, at)
            longest, orphans = max(longest, seconds), orphans + bool(left)
            print(
                f"{ranks} ranks, {at:6.3f} s after {since}: {there} processes, gone after {seconds:.2f} s {left or ''}"
            )
    print(f"{arguments.kills} kills: {orphans} with processes left; the longest took {longest:.2f} s to end")
    return int(orphans > 0)


if __name__ == "__main__":
    sys.exit(main())
