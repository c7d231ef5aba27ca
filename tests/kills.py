"""Runs stopped by a signal at random instants and resumed until they finish, compared with uninterrupted runs.

    python tests/kills.py [--runs 100] [--signal KILL] [--seed 0] [--jobs 2]

Instants are random, most of them inside commits. Prints a line for each run with a problem, then
totals; exits non-zero unless every run ends bit-identical and no file was ever unreadable or missing.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import struct
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.conftest import BACKBONE, write_folder
from tests.forked import Forked, Warm, warm_process
from tlkit.files.artifact import digest, read_artifact

LONGEST = 10.0
"""Seconds within which a run must be gone after a signal that asks: shorter than any grace period in use."""

KINDS: list[list[str]] = [
    ["--workers", "0"],
    ["--augment", "light", "--views", "2", "--workers", "2"],
    ["--no-cache", "--augment", "light", "--workers", "2"],
    ["--unfreeze", "layer4", "--workers", "0", "--head", "mlp", "--hidden", "8"],
]
"""Ways to train: on features, on features of augmented views, on freshly augmented images, and with unfrozen layers."""


def fingerprint(run: Path) -> dict[str, str]:
    """Digests of all that must survive an interruption: head, optimizer, history (without times), model."""
    last = read_checkpoint(run / "checkpoints" / "last.pt")
    trained = ("epoch", "step", "model_state_dict", "optimizer_state_dict", "scaler_state_dict")
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return {
        "last": digest([*(last[name] for name in trained), last["progress"]["micro_batch"]]),
        "history": digest(
            [{name: row[name] for name in row if name not in ("seconds", "images_per_second")} for row in rows]
        ),
        "model": digest(read_artifact(str(run / "model.pt"), "tlkit-model")["model_state_dict"]),
    }


def read_checkpoint(file: Path) -> dict[str, Any]:
    return read_artifact(str(file), "tlkit-checkpoint")


@dataclass
class Record:
    """Observations of one run. lost: most optimizer steps that a stop cost. logged, gone: longest seconds until a
    signal was logged, and until the process ended."""

    stops: int = 0
    lost: int = 0
    logged: float = 0.0
    gone: float = 0.0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Trial:
    """A finetune command to run, whole or in pieces."""

    warm: Warm
    images: Path
    options: list[str]

    def start(self, run: Path, arguments: list[object]) -> Forked:
        """Start a command of a run, with its own cache: kills hit the feature extraction too."""
        steps = Path(f"{run}-steps")
        if not steps.exists():
            steps.write_bytes(bytes(8))
        environment = {"TLKIT_CACHE": f"{run}-cache"}
        return self.warm.start(arguments, environment=environment, hook="count_steps", file=str(steps))

    def uninterrupted(self, run: Path) -> dict[str, str]:
        """The fingerprint of an uninterrupted run."""
        process = self.start(run, ["finetune", self.images, "--out", run, *self.options])
        assert process.wait() == 0, process.err.read_text()
        return fingerprint(run)

    def stopped(self, run: Path, number: int, chance: random.Random, most: int) -> Record:
        """Stop a run up to `most` times, then let it end."""
        record = Record()
        while True:
            again = (run / "options.json").exists()
            process = self.start(
                run, ["resume", run] if again else ["finetune", self.images, "--out", run, *self.options]
            )
            if record.stops < most:
                wait_for_instant(run, process, chance)
                if process.poll() is None:
                    record.stops += 1
                    send_and_watch(process, number, record)
            status = process.wait()
            if status == 0:
                return record
            if status != -number:
                record.problems.append(f"ended with {status}: {process.err.read_text()}")
                return record
            look_at_checkpoints(run, record)


def wait_for_instant(run: Path, process: Forked, chance: random.Random) -> None:
    """Wait for a random instant: mostly some milliseconds after the start of one of its commits."""
    if chance.random() < 0.25:
        sleep(chance.uniform(0, 1.5), process)
        return
    for _ in range(chance.choice((1, 2, 3, 5, 8, 13, 40))):
        wait_for_change(run / "checkpoints", process)
    sleep(chance.uniform(0, 0.015), process)


def wait_for_change(folder: Path, process: Forked) -> None:
    """Wait until a name in a folder changes, or the process has ended."""
    before = last_change(folder)
    while last_change(folder) == before and process.poll() is None:
        time.sleep(0.0005)


def last_change(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def sleep(seconds: float, process: Forked) -> None:
    """Sleep, but not after the end of a process."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        time.sleep(min(0.01, max(0.0, end - time.monotonic())))


def send_and_watch(process: Forked, number: int, record: Record) -> None:
    """Send a signal, and measure how long it takes until it is logged and the process ends."""
    began = time.monotonic()
    process.send(number)
    if number == signal.SIGKILL:
        return
    name = signal.Signals(number).name
    logged = False
    while process.poll() is None and time.monotonic() - began < LONGEST:
        if not logged and name in process.err.read_text():
            logged = True
            record.logged = max(record.logged, time.monotonic() - began)
        time.sleep(0.002)
    record.gone = max(record.gone, time.monotonic() - began)
    if process.poll() is None:
        record.problems.append(f"still there {LONGEST:.0f} seconds after {name}")
        process.send(signal.SIGKILL)


def look_at_checkpoints(run: Path, record: Record) -> None:
    """After a stop, every checkpoint must be whole, and `last` not far behind what was done."""
    folder = run / "checkpoints"
    for file in folder.glob("*.pt") if folder.exists() else ():
        try:
            read_checkpoint(file)
        except Exception as error:
            record.problems.append(f"after stop {record.stops}: {error}")
    (done,) = struct.unpack("q", Path(f"{run}-steps").read_bytes())
    last = folder / "last.pt"
    saved = read_checkpoint(last)["step"] if last.exists() else 0
    record.lost = max(record.lost, done - saved)


def options_of(kind: list[str], number: int) -> list[str]:
    """A short run, which saves after each step unless it can save when it is asked to stop."""
    every = "0" if number == signal.SIGKILL else "300"
    small = ["--backbone", BACKBONE, "--weights", "none", "--batch-size", "8", "--epochs", "8", "--image-size", "64"]
    return [*small, "--save-every", every, *kind]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT", "HUP"), default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    number = int(signal.Signals[f"SIG{arguments.signal}"])
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, warm_process() as warm, ThreadPoolExecutor(arguments.jobs) as pool:
        root = Path(folder)
        images = write_folder(root / "images", 10)
        trials = [Trial(warm, images, options_of(kind, number)) for kind in KINDS]
        expected = [trial.uninterrupted(root / f"whole{kind}") for kind, trial in enumerate(trials)]

        def one(at: int) -> tuple[bool, Record]:
            run, kind = root / f"run{at}", at % len(KINDS)
            record = trials[kind].stopped(run, number, random.Random(arguments.seed + at), most=3)
            equal = not record.problems and fingerprint(run) == expected[kind]
            left = [file.name for file in run.rglob("*.tlkit-tmp")]
            record.problems += [f"left over: {', '.join(left)}"] if left else []
            if not equal or record.problems:
                print(f"run {at} ({' '.join(KINDS[kind])}): {'equal' if equal else 'DIFFERENT'} {record}", flush=True)
            return equal, record

        outcomes = list(pool.map(one, range(arguments.runs)))
    records = [record for _, record in outcomes]
    equal, problems = sum(same for same, _ in outcomes), sum(len(record.problems) for record in records)
    stops = f"through {sum(r.stops for r in records)} times SIG{arguments.signal}"
    print(f"{equal} of {arguments.runs} runs bit-identical to uninterrupted ones, {stops}")
    print(f"checkpoints unreadable or missing, and other problems: {problems}")
    print(f"most work lost: {max(r.lost for r in records)} steps")
    if number != signal.SIGKILL:
        print(f"longest until logged {max(r.logged for r in records):.2f} s, gone {max(r.gone for r in records):.2f} s")
    print(f"{time.monotonic() - began:.0f} seconds")
    return 0 if equal == arguments.runs and not problems else 1


if __name__ == "__main__":
    sys.exit(main())
