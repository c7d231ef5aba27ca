"""A search over cached features, against the same trials as commands one after the other.

    python benchmarks/tune.py [--trials 100] [--commands 10]

Trials per minute once Ray has started, and what of that time was no trial's: the seconds of all cores, less those that
the trials themselves took. The commands are `tlkit finetune` with the options of the first trials, each to its last
epoch; of --commands of them the median stands for all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from common import CORES, SAMPLE, SAMPLE_BACKBONE, SAMPLE_WEIGHTS, TLKIT, environment, run, spread, table

SHARED = [SAMPLE / "textures", "--backbone", SAMPLE_BACKBONE, "--weights", SAMPLE_WEIGHTS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--commands", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = folder / "cache"
        run([*TLKIT, "finetune", *SHARED, "--epochs", 1, "--out", folder / "warm"], cache)  # features are ready
        whole, started = search_through(folder / "search", cache, options.trials)
        trials = [json.loads(line) for line in (folder / "search" / "results.jsonl").read_text().splitlines()]
        points = [row["options"] for row in trials[: options.commands]]
        seconds = [command_seconds(folder / f"run-{number}", cache, point) for number, point in enumerate(points)]
    trained = sum(row["seconds"] for row in trials)
    each = statistics.median(seconds)
    table(
        (f"{options.trials} trials on {CORES} cores", "s in all", "s with Ray up", "trials/min", "Ray's own", "epochs"),
        (
            "tlkit tune",
            f"{whole:.0f}",
            f"{started:.0f}",
            f"{60 * len(trials) / started:.0f}",
            f"{100 * (1 - trained / (CORES * started)):.0f} %",
            sum(row["epochs"] for row in trials),
        ),
        (
            f"tlkit finetune, {spread(seconds, 's')} each",
            f"{options.trials * each:.0f}",
            "",
            f"{60 / each:.1f}",
            "",
            100 * options.trials,
        ),
    )


def search_through(folder: Path, cache: Path, trials: int) -> tuple[float, float]:
    """The seconds of a whole search, and of it since Ray had started."""
    command = [*TLKIT, "tune", *SHARED, "--out", folder, "--samples", trials]
    began = started = ended = time.perf_counter()
    with subprocess.Popen(
        [*map(str, command)], env=environment(cache), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            now = time.perf_counter()
            started = now if line.startswith("Ray ") else started
            ended = now if line.startswith("trial ") else ended
    if process.returncode:
        raise RuntimeError(f"tlkit tune ended with {process.returncode}")
    return time.perf_counter() - began, ended - started


def command_seconds(out: Path, cache: Path, point: dict[str, object]) -> float:
    """A trial as a command of its own."""
    flags = [word for name, value in point.items() for word in (f"--{name.replace('_', '-')}", value)]
    return run([*TLKIT, "finetune", *SHARED, "--out", out, *flags], cache).seconds


if __name__ == "__main__":
    main()
