"""Ranks killed at random instants: the job ends soon, leaves no process, and the resumed run is bit-identical.

    python tests/ranks.py [--kills 20] [--ranks 2] [--seed 0]

Victims take turns, ways to train (KINDS) too. Prints a line for each kill, and closing counts; exits non-zero unless
every job is gone within 30 seconds with status 71, no process is left 10 seconds later, and every run ends with the
same bits.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.conftest import BACKBONE, command, write_folder
from tests.kills import fingerprint
from tests.ranked import descendants, is_there, ranks_of

LONGEST = 30.0
"""Seconds within which a job must be gone when one of its ranks is."""

KINDS = [
    ["--unfreeze", "layer4", "--sync-batchnorm", "--augment", "light"],
    ["--no-cache", "--augment", "light"],
    [],
]
SMALL = ["--backbone", BACKBONE, "--weights", "none", "--image-size", "64", "--batch-size", "8", "--workers", "1"]


@dataclass
class Kill:
    """The outcome of one kill. gone: seconds until the job ended."""

    gone: float = 0.0
    problems: list[str] = field(default_factory=list)


def start(images: Path, run: Path, ranks: int, kind: list[str]) -> subprocess.Popen[str]:
    """Start or resume a run; each has its own cache."""
    words = ["finetune", images, "--out", run, *SMALL, "--epochs", 12, "--save-every", 0, *kind]
    if (run / "options.json").exists():
        words = ["resume", run]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "TLKIT_CACHE": f"{run}-cache"}
    return subprocess.Popen(
        command(*words, "--processes", ranks),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def kill_one(images: Path, run: Path, ranks: int, kind: list[str], victim: int, seconds: float) -> Kill:
    """Kill a rank some seconds after all have been started, and let the run end."""
    found = Kill()
    process = start(images, run, ranks, kind)
    while len(there := ranks_of(process)) < ranks and process.poll() is None:
        time.sleep(0.01)
    while sum("torch" in Path(f"/proc/{number}/maps").read_text() for number in there.values()) < ranks:
        time.sleep(0.05)
    time.sleep(seconds)
    everyone = [*there.values(), *descendants([*there.values()])]
    if process.poll() is not None:
        found.problems.append("ended before it was to be killed")
        return found
    os.kill(there[victim], signal.SIGKILL)
    began = time.monotonic()
    try:
        _, err = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        _, err = process.communicate()
        found.problems.append(f"still there after {LONGEST:.0f} seconds")
    found.gone = time.monotonic() - began
    if process.returncode == 0:  # a rank whose work was done
        return found
    if process.returncode != 71 or err.count("tlkit finetune: ") != 1:
        found.problems.append(f"ended with {process.returncode}: {err}")
    until = time.monotonic() + 10
    while any(map(is_there, everyone)) and time.monotonic() < until:
        time.sleep(0.1)
    left = [number for number in everyone if is_there(number)]
    if left:
        found.problems.append(f"left behind: {left}")
    if (run / "status.json").exists():
        status = json.loads((run / "status.json").read_text())
        if (status["state"], status.get("rank")) != ("failed", victim):
            found.problems.append(f"status.json says {status['state']} of rank {status.get('rank')}")
    again = start(images, run, ranks, kind)
    _, err = again.communicate()
    if again.returncode:
        found.problems.append(f"did not resume ({again.returncode}): {err}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began, chance, records, equal = time.monotonic(), random.Random(arguments.seed), list[Kill](), 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        images = write_folder(root / "images", 10)
        expected, lasted = [], []
        for number, kind in enumerate(KINDS):
            started = time.monotonic()
            process = start(images, root / f"whole{number}", arguments.ranks, kind)
            _, err = process.communicate()
            assert process.returncode == 0, err
            expected.append(fingerprint(root / f"whole{number}"))
            lasted.append(time.monotonic() - started)
        for number in range(arguments.kills):
            which, victim = number % len(KINDS), number % arguments.ranks
            run, seconds = root / f"run{number}", chance.uniform(0, 0.6 * lasted[which])
            found = kill_one(images, run, arguments.ranks, KINDS[which], victim, seconds)
            same = not found.problems and fingerprint(run) == expected[which]
            equal += same
            records.append(found)
            how = f"rank {victim} after {seconds:.2f} s ({' '.join(KINDS[which]) or 'features'})"
            print(f"{number}: {how}: gone in {found.gone:.1f} s, {'equal' if same else 'DIFFERENT'}", flush=True)
            for problem in found.problems:
                print(f"    {problem}", flush=True)
    print(f"{equal} of {arguments.kills} runs bit-identical to uninterrupted ones after a rank was killed")
    print(f"longest until gone {max(record.gone for record in records):.1f} s, {time.monotonic() - began:.0f} seconds")
    return 0 if equal == arguments.kills else 1


if __name__ == "__main__":
    sys.exit(main())
