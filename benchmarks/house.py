"""Print the figures of the package's structure; exit 1 if one breaks its bound.

python benchmarks/house.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.test_architecture import (
    FILES,
    LARGEST_SHARE,
    LONGEST_FUNCTION,
    MOST_COMMAND_LINES,
    MOST_COMMANDS,
    MOST_PARAMETERS,
    PACKAGE,
    circles,
    forbidden_imports,
    large_functions,
    lines_of_rooms,
)
from tests.test_words import FILES as PROSE
from tests.test_words import riddles_in

MOST_LINES, MOST_ANY = 17_500, 119


def main() -> int:
    """Print a line for each folder and for each figure with its bound. Returns 1 if a bound is broken."""
    rooms = lines_of_rooms(PACKAGE)
    total = sum(lines for _, lines in rooms.values())
    for room, (files, lines) in sorted(rooms.items(), key=lambda entry: -entry[1][1]):
        print(f"{room or '(version)':<16}{files:>4} files{lines:>7} lines {lines / total:6.1%}")
    large = large_functions(PACKAGE)
    lines_with_any = [
        line
        for path in FILES
        for line in path.read_text().splitlines()
        if re.search(r"\bAny\b", line) and " import " not in line
    ]
    share = max(lines for _, lines in rooms.values()) / total
    figures = [
        ("lines of the package", total, MOST_LINES),
        ("share of the largest folder, %", round(100 * share, 1), 100 * LARGEST_SHARE),
        ("files in commands/", rooms["commands"][0], MOST_COMMANDS),
        ("lines in commands/", rooms["commands"][1], MOST_COMMAND_LINES),
        ("circles of imports", len(circles(PACKAGE)), 0),
        ("imports against the order", len(forbidden_imports(PACKAGE)), 0),
        (f"functions over {LONGEST_FUNCTION} lines or {MOST_PARAMETERS} parameters", len(large), 0),
        ("lines with Any", len(lines_with_any), MOST_ANY),
        ("listed phrases in tlkit/, README.md, docs/", len(riddles_in(PROSE)), 0),
    ]
    print()
    for name, value, bound in figures:
        print(f"{name:<48}{value:>8}   at most {bound:g}{'' if value <= bound else '   BROKEN'}")
    print("\n".join(large))
    return int(any(value > bound for _, value, bound in figures))


if __name__ == "__main__":
    sys.exit(main())
