"""Two writers of one output in separate process namespaces, as in two containers: the same process id, one volume.

    python tests/writers.py [--pairs 50]

Each pair writes one file at the same time, by the writer of `predict --output` or by the one of all other files. When
both are done, the file must be the whole output of one of them, and nothing else may lie beside it.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

WRITER = """
import os, sys, time
sys.path.insert(0, {root!r})
kind, path, mark, lines, pause = sys.argv[1:]
line = (mark * 200 + "\\n").encode()
def write_to(write):
    for _ in range(int(lines)):
        write(line)
        time.sleep(float(pause))
if kind == "output":
    from tlkit.inference.writers import open_output
    with open_output(path) as write:
        write_to(write)
else:
    from tlkit.files.atomic import write_atomically
    write_atomically(path, lambda file: write_to(file.write))
print(os.getpid())
"""


def can_isolate() -> bool:
    """Whether this user may create process namespaces."""
    return shutil.which("unshare") is not None and not subprocess.run(isolated("true"), capture_output=True).returncode


def isolated(*words: str) -> list[str]:
    """The words of a command in a process namespace of its own, where it is process 1."""
    return ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *words]


def write_together(kind: str, folder: Path, draw: random.Random) -> str:
    """Let a pair write one file. Returns what is wrong; empty for nothing."""
    path, sizes = folder / "out.jsonl", {"a": draw.randint(1, 60), "b": draw.randint(1, 60)}
    program = WRITER.format(root=str(ROOT))
    writers = [
        subprocess.Popen(
            isolated(sys.executable, "-c", program, kind, str(path), mark, str(lines), str(draw.uniform(0, 0.01))),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for mark, lines in sizes.items()
    ]
    said = [writer.communicate(timeout=60) for writer in writers]
    if any(writer.returncode for writer in writers):
        return f"a writer failed: {said}"
    if said[0][0] != said[1][0]:
        return "the writers had different process ids"
    whole = [(mark * 200 + "\n") * lines for mark, lines in sizes.items()]
    if path.read_text() not in whole:
        return "a part of the output was committed"
    left = [other.name for other in folder.iterdir() if other != path]
    return f"left behind: {left}" if left else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not can_isolate():
        print("process namespaces are not available to this user")
        return 1
    draw, wrong = random.Random(arguments.seed), list[str]()
    for number in range(arguments.pairs):
        with tempfile.TemporaryDirectory() as folder:
            problem = write_together(("output", "file")[number % 2], Path(folder), draw)
        if problem:
            wrong.append(f"pair {number + 1}: {problem}")
    print(f"{arguments.pairs} pairs of writers with one process id; wrong: {'; '.join(wrong) or 'nothing'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
