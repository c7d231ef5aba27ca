"""Damage to every kind of file that tlkit writes: cuts and single flipped bits, none of which may be accepted.

python tests/damage.py [--cuts 64] [--flips 300] [--seed 0]
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.artifacts import KINDS, Kind, write_all
from tlkit.errors import TlkitError


def damaged(content: bytes, cuts: int, flips: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """The content cut at places all over it, its ends included; and with one bit flipped at random, ends included."""
    places = sorted({round(place * (len(content) - 1) / (cuts - 1)) for place in range(cuts)})
    for place in places:
        yield f"cut to {place} bytes", content[:place]
    chance = random.Random(seed)
    for number in range(flips):
        ends = (0, len(content) - 1, len(content) - 90)
        place = ends[number] if number < len(ends) else chance.randrange(len(content))
        bit = chance.randrange(8)
        yield f"bit {bit} of byte {place} flipped", flipped(content, place, bit)


def flipped(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def accepted(kind: Kind, folder: Path, cuts: int, flips: int, seed: int) -> tuple[int, list[str]]:
    """How many damaged files were opened, and which were not refused as they should be."""
    file = kind.file(folder)
    content = file.read_bytes()
    opened, wrong = 0, []
    try:
        for what, bad in damaged(content, cuts, flips, seed):
            file.unlink()  # a new file each time: what was opened before may be a map of the old one
            file.write_bytes(bad)
            for way, open_file in kind.ways.items():
                opened += 1
                try:
                    open_file(str(folder / kind.name))
                    wrong.append(f"{what}: accepted as {way}")
                except TlkitError as error:
                    if error.exit_code not in (65, 77):
                        wrong.append(f"{what}: exit status {error.exit_code} as {way}: {error}")
    finally:
        file.unlink()
        file.write_bytes(content)
    return opened, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=64)
    parser.add_argument("--flips", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    total = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_all(folder)
        for label, kind in KINDS.items():
            for way in kind.ways.values():
                way(str(folder / kind.name))
            opened, wrong = accepted(kind, folder, arguments.cuts, arguments.flips, arguments.seed)
            total += len(wrong)
            print(f"{label:<14} {opened:>5} damaged files opened, {len(wrong)} accepted or refused wrongly", flush=True)
            for line in wrong[:10]:
                print(f"  {line}")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
