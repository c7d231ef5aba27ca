"""Runs stopped at every kind of instant, with every way to train: resumed, they must be bit-identical.

    python tests/matrix.py [--jobs 2]

Cells: threads 1 and 2, where the run is stopped (STOPS), how it trains (WAYS), threads that read images 0 and 2. Prints
the cells that differ and their count; exits non-zero unless there is none.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.conftest import BACKBONE, write_folder
from tests.forked import Warm, warm_process
from tests.kills import fingerprint

EPOCHS, STEPS = 4, 3
"""Of each run, and of each epoch: 24 training images in batches of 8, or with folds 30 in batches of 10."""

TERM, KILL = int(signal.SIGTERM), int(signal.SIGKILL)

STOPS: dict[str, dict[str, Any]] = {
    "at the edge of an epoch": {"hook": "interrupt_at_step", "step": 2 * STEPS, "number": KILL},
    "inside an epoch": {"hook": "interrupt_at_step", "step": 2 * STEPS + 1, "number": TERM},
    "inside a validation": {"hook": "interrupt_in_validation", "time": 3, "number": TERM},
    "after a validation": {"hook": "interrupt_in_validation", "time": 2, "where": "after", "number": TERM},
    "at the last step": {"hook": "interrupt_at_step", "step": EPOCHS * STEPS - 1, "number": TERM},
    "inside a commit": {"hook": "interrupt_in_commit", "time": 12, "call": "replace", "number": KILL},
}
WAYS: dict[str, list[str]] = {
    "vectors": ["--folds", "1"],
    "views": ["--augment", "light", "--views", "2", "--folds", "1"],
    "folds": ["--folds", "3", "--batch-size", "10"],
    "folds of views": ["--folds", "3", "--batch-size", "10", "--augment", "light", "--views", "2"],
    "images": ["--no-cache", "--augment", "light"],
    "unfrozen": ["--unfreeze", "layer4", "--augment", "strong"],
    "fp16 in parts": ["--unfreeze", "layer4", "--precision", "fp16", "--accumulate", "2"],
}


@dataclass(frozen=True)
class Cell:
    """threads: that compute. workers: that read images."""

    threads: int
    stop: str
    workers: int
    way: str


CELLS = [Cell(*values) for values in itertools.product((1, 2), STOPS, (0, 2), WAYS)]


class Matrix:
    """Tries cells. root: where its runs go."""

    def __init__(self, warm: Warm, root: Path) -> None:
        self.warm = warm
        self.root = root
        self.images = write_folder(root / "images", 10)
        self.environment = {"TLKIT_CACHE": str(root / "cache")}
        self.expected = cache(self.uninterrupted)

    def command(self, run: Path, cell: Cell) -> list[object]:
        size = ["--epochs", EPOCHS, "--batch-size", 8, "--image-size", 64, "--keep-checkpoints", 2]
        every = 0 if cell.stop == "inside a commit" else 300
        where = ["finetune", self.images, "--out", run, "--backbone", BACKBONE, "--weights", "none"]
        return [*where, *size, "--workers", cell.workers, "--save-every", every, *WAYS[cell.way]]

    def uninterrupted(self, threads: int, way: str) -> dict[str, str]:
        """The expected fingerprint of runs of this kind."""
        run = self.root / f"whole-{threads}-{way}"
        command = self.command(run, Cell(threads, "nowhere", 1, way))
        status, _, err = self.warm.run(command, threads=threads, environment=self.environment)
        assert status == 0, err
        return fingerprint(run)

    def differs(self, number: int, cell: Cell) -> str:
        """Why a stopped run is not as an uninterrupted one; empty if it is."""
        run = self.root / f"run-{number}"
        how: dict[str, Any] = {"threads": cell.threads, "environment": self.environment}
        stop = STOPS[cell.stop]
        status, _, err = self.warm.run(self.command(run, cell), **how, **stop)
        if status != -stop["number"]:
            return f"{cell}: was not stopped but ended with {status}: {err}"
        status, _, err = self.warm.run(["resume", run], **how)
        if status != 0:
            return f"{cell}: could not resume ({status}): {err}"
        return "" if fingerprint(run) == self.expected(cell.threads, cell.way) else f"{cell}: other bits"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, warm_process() as warm, ThreadPoolExecutor(arguments.jobs) as pool:
        matrix = Matrix(warm, Path(folder))
        for threads, way in itertools.product((1, 2), WAYS):
            matrix.expected(threads, way)
        differences = [*filter(None, pool.map(matrix.differs, itertools.count(), CELLS))]
    for difference in differences:
        print(difference)
    print(f"{len(CELLS) - len(differences)} of {len(CELLS)} cells equal, in {time.monotonic() - began:.0f} seconds")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
