"""How long help and a usage error take, against Python that does nothing but import typer.

    python benchmarks/start.py [--rounds 15]

The commands take turns; each figure is the median of all rounds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

TLKIT = [sys.executable, "-c", "import sys; from tlkit.cli import main; sys.argv[0] = 'tlkit'; main()"]
COMMANDS = {
    "import typer": [sys.executable, "-c", "import typer"],
    "tlkit --help": [*TLKIT, "--help"],
    "tlkit finetune --help": [*TLKIT, "finetune", "--help"],
    "a flag that does not exist": [*TLKIT, "finetune", "images", "--no-such-flag"],
    "a value out of bounds": [*TLKIT, "finetune", "images", "--epochs", "0"],
}


def seconds(command: list[str]) -> float:
    """How long one process takes from start to end."""
    began = time.perf_counter()
    subprocess.run(command, capture_output=True, check=False)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command))
    reference = statistics.median(taken["import typer"])
    print("| process | ms | import typer = 1 |\n|---|---|---|")
    for name, values in taken.items():
        median = statistics.median(values)
        print(f"| {name} | {1000 * median:.0f} | {median / reference:.2f} |")


if __name__ == "__main__":
    main()
