"""Runs killed by SIGKILL at random instants and resumed until they are done, compared with one never stopped.

    python tests/kills.py [--runs 20] [--seed 0]

Prints a line for each run and a closing count; exits non-zero unless every run ends with the same bits.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.conftest import BACKBONE, command, write_folder
from tlkit.artifact import digest, read_artifact

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def fingerprint(run: Path) -> dict[str, str]:
    """What must be the same after any interruption: head, optimizer, history (without the clock), model."""
    last = read_artifact(str(run / "checkpoints" / "last.pt"), "tlkit-checkpoint")
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return {
        "last": digest([last["epoch"], last["step"], last["model_state_dict"], last["optimizer_state_dict"]]),
        "history": digest([{name: row[name] for name in row if name != "seconds"} for row in rows]),
        "model": digest(read_artifact(str(run / "model.pt"), "tlkit-model")["model_state_dict"]),
    }


@dataclass(frozen=True)
class Trial:
    """A finetune command to run, whole or in pieces."""

    images: Path
    options: list[str]

    def start(self, run: Path, *arguments: object) -> subprocess.Popen[bytes]:
        """Start a command of a run, which has a cache of its own: its vectors are computed under fire too."""
        environment = {**ENVIRONMENT, "TLKIT_CACHE": f"{run}-cache"}
        return subprocess.Popen(command(*arguments), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def uninterrupted(self, run: Path) -> dict[str, str]:
        """The fingerprint of a run that nobody stops."""
        process = self.start(run, "finetune", self.images, "--out", run, *self.options)
        _, err = process.communicate()
        assert process.returncode == 0, err.decode()
        return fingerprint(run)

    def killed(self, run: Path, seed: int, most: int, longest: float = 0.0) -> tuple[dict[str, str], int]:
        """The fingerprint of a run killed up to `most` times, and how often it was.

        A kill comes a random time after the process began to write to its folder, or after it was started.
        """
        chance = random.Random(seed)
        kills = 0
        while True:
            again = (run / "options.json").exists()
            arguments = ["resume", run] if again else ["finetune", self.images, "--out", run, *self.options]
            process = self.start(run, *arguments)
            if kills < most:
                if chance.random() < 0.7:
                    wait_for_change(run / "status.json", process)
                    time.sleep(chance.uniform(0, longest or 0.6))
                else:
                    time.sleep(chance.uniform(0, 8))
                if process.poll() is None:
                    process.kill()
                    kills += 1
            _, err = process.communicate()
            if process.returncode == 0:
                return fingerprint(run), kills
            assert process.returncode == -9, err.decode()


def wait_for_change(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a file is written anew, or the process has ended."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    while process.poll() is None and (not path.exists() or path.stat().st_mtime_ns == before):
        time.sleep(0.01)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        images = write_folder(root / "images", 10)
        options = ["--backbone", BACKBONE, "--weights", "none", "--epochs", "400", "--batch-size", "8"]
        trial = Trial(images, options)
        expected = trial.uninterrupted(root / "whole")
        equal = kills = 0
        for number in range(arguments.runs):
            found, killed = trial.killed(root / f"run{number}", arguments.seed + number, most=3, longest=3.0)
            equal += found == expected
            kills += killed
            print(
                f"run {number + 1}: killed {killed} times, {'equal' if found == expected else 'DIFFERENT'}", flush=True
            )
    print(f"{equal} of {arguments.runs} runs bit-identical to the uninterrupted one, through {kills} kills")
    return 0 if equal == arguments.runs else 1


if __name__ == "__main__":
    sys.exit(main())
