"""A fault at every system call of a commit, by strace: killed there, the disk full, or failing, once or ever after.

    python tests/faults.py

For each kind of commit in KINDS and each system call that it makes between its beginning and its end, the process is
run anew with the fault at the first such call, the second, and so on until none is hit any more. Afterwards the old
content or the new must be there, whole, and the next commit must succeed. Prints a line for each kind, and exits
non-zero if anything was lost.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

OLD, NEW = b"old" * 5000, b"new" * 7000

COMMIT = """
import os, sys
sys.path.insert(0, {root!r})
from tlkit.errors import TlkitError
from tlkit.files import atomic, storage
kind, folder = sys.argv[1:]
path, new = os.path.join(folder, "file"), b"new" * 7000
def write(file):
    file.write(new[:10000])
    file.write(new[10000:])
def write_folder():
    with atomic.replaced_when_whole(path) as aside, storage.writing(path):
        os.mkdir(aside)
        with open(os.path.join(aside, "inside"), "wb") as file:
            write(file)
os.path.exists("/the commit begins")
try:
    if kind in ("file", "fresh"):
        atomic.write_atomically(path, write)
    elif kind == "link":
        atomic.link_atomically(os.path.join(folder, "source"), path)
    elif kind == "folder":
        write_folder()
except TlkitError as error:
    os._exit(error.exit_code)
os.path.exists("/the commit ends")
os._exit(0)
"""

KINDS = ("file", "fresh", "link", "folder")

FAULTS = ("signal=KILL", "error=ENOSPC", "error=EIO")

NOT_ABOUT_FILES = ("brk", "mmap", "munmap", "mprotect", "mremap", "madvise", "futex", "getrandom", "clock_gettime")
"""Calls that manage memory and time: killed at, too, but a disk does not make them fail."""


def have_strace() -> bool:
    """Whether strace is here and may trace."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True).returncode == 0


def prepare(kind: str, folder: Path) -> None:
    """What lies there before a commit."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if kind == "folder":
        (folder / "file").mkdir()
        (folder / "file" / "inside").write_bytes(OLD)
    elif kind != "fresh":
        (folder / "file").write_bytes(OLD)
    if kind == "link":
        (folder / "source").write_bytes(NEW)


def content(kind: str, folder: Path) -> bytes | None:
    """What lies there afterwards; None for nothing."""
    file = folder / "file" / "inside" if kind == "folder" else folder / "file"
    return file.read_bytes() if file.exists() else None


def commit(kind: str, folder: Path, *tracing: str) -> int:
    """Commit in a process of its own, under strace if options of it are given. Returns the exit status."""
    # -I and -S: nothing that depends on the machine happens before the commit, so calls can be counted.
    python = [sys.executable, "-I", "-S", "-c", COMMIT.format(root=str(ROOT)), kind, str(folder)]
    under = ["strace", "-f", *tracing] if tracing else []
    return subprocess.run([*under, *python], capture_output=True, stdin=subprocess.DEVNULL).returncode


def traced(kind: str, folder: Path) -> tuple[list[str], list[str]]:
    """The lines of strace before a commit and of it."""
    log = folder.parent / f"{folder.name}.log"
    for tracing in ([], ["-o", str(log)]):  # the first run compiles what the others find compiled
        prepare(kind, folder)
        assert commit(kind, folder, *tracing) == 0
    lines = log.read_text().splitlines()
    begin = next(n for n, line in enumerate(lines) if "/the commit begins" in line)
    end = next(n for n, line in enumerate(lines) if "/the commit ends" in line)
    return lines[: begin + 1], lines[begin + 1 : end]


def call_of(line: str) -> str:
    """The name of the system call that a line of strace is about."""
    match = re.match(r"\d+ +(\w+)\(", line)
    return match[1] if match else ""


@dataclass(frozen=True)
class Point:
    """A fault: at the number-th system call of that name, and with `forever` at all that follow."""

    kind: str
    call: str
    number: int
    fault: str
    forever: bool

    def hit(self, folder: Path) -> bool:
        """Commit with this fault, and look at what is left. Returns whether the fault was met at all.

        Raises AssertionError if anything was lost.
        """
        prepare(self.kind, folder)
        log = folder.parent / f"{folder.name}.log"
        when = f"{self.number}+" if self.forever else f"{self.number}"
        inject = f"inject={self.call}:{self.fault}:when={when}"
        status = commit(self.kind, folder, "-o", str(log), "-e", f"trace={self.call}", "-e", inject)
        fired = "INJECTED" in (text := log.read_text()) or "killed by SIGKILL" in text
        found = content(self.kind, folder)
        expected = (None, NEW) if self.kind == "fresh" else (OLD, NEW)
        assert found in expected, f"{self}: {'nothing' if found is None else 'neither old nor new'} is there"
        assert status in ((-9, 137) if fired and "KILL" in self.fault else (0, 73, 74)), f"{self}: exit status {status}"
        if status == 0:
            assert found == NEW, f"{self}: said done, but was not"
        if fired:
            assert commit(self.kind, folder) == 0 and content(self.kind, folder) == NEW, f"{self}: the next one fails"
        return fired


def sweep(kind: str, fault: str, forever: bool, folder: Path) -> Iterator[Point]:
    """Every point of one kind of commit, each tried."""
    before, inside = traced(kind, folder)
    earlier = Counter(map(call_of, before))
    for call in sorted(set(map(call_of, inside)) - {""}):
        if "error" in fault and call in NOT_ABOUT_FILES:
            continue
        number = earlier[call] + 1
        while (point := Point(kind, call, number, fault, forever)).hit(folder):
            yield point
            number += 1


def main() -> int:
    if not have_strace():
        print("strace is not here, or may not trace")
        return 1
    cells = [("signal=KILL", False), *((fault, forever) for fault in FAULTS[1:] for forever in (False, True))]
    with tempfile.TemporaryDirectory() as root, ThreadPoolExecutor(2) as pool:

        def outcome(kind: str) -> tuple[int, list[str]]:
            points, losses = 0, []
            for fault, forever in cells:
                try:
                    points += sum(1 for _ in sweep(kind, fault, forever, Path(root) / kind))
                except AssertionError as loss:
                    losses.append(str(loss))
            return points, losses

        outcomes = list(pool.map(outcome, KINDS))
    for kind, (points, losses) in zip(KINDS, outcomes, strict=True):
        print(f"{kind}: {points} faults met; lost: {losses or 'nothing'}")
    return 1 if any(losses for _, losses in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
