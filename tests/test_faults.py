"""Faults at the system calls of a commit: a sample of `make test-faults`, and the order of the calls."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults import KINDS, call_of, have_strace, sweep, traced

pytestmark = pytest.mark.skipif(not have_strace(), reason="strace is not here, or may not trace")


def test_killed_at_every_call_of_a_commit(tmp_path: Path) -> None:
    points = list(sweep("file", "signal=KILL", False, tmp_path / "x"))
    assert {"openat", "write", "fsync", "renameat", "close"} <= {point.call for point in points}
    assert len(points) >= 15


def test_a_full_disk_from_any_call_of_a_commit_on(tmp_path: Path) -> None:
    points = list(sweep("link", "error=ENOSPC", True, tmp_path / "x"))
    assert {"linkat", "renameat", "fsync"} <= {point.call for point in points}
    assert len(points) >= 8


@pytest.mark.parametrize("kind", KINDS)
def test_the_content_lasts_before_the_name_does_and_then_the_folder(kind: str, tmp_path: Path) -> None:
    """write -> fsync -> rename -> fsync of the folder, of a file that lies in the same folder."""
    folder = tmp_path / "x"
    _, lines = traced(kind, folder)
    steps: list[str] = []
    names: dict[str, str] = {}
    for line in lines:
        call = call_of(line)
        if call == "openat" and (opened := re.search(r'\((\w+), "([^"]+)".* = (\d+)', line)):
            names[opened[3]] = str(Path(names.get(opened[1], ""), opened[2]))
        elif call in ("write", "fsync") and (used := re.search(r"\((\d+)", line)):
            steps.append(f"{call} {'folder' if names[used[1]] == str(folder) else 'aside'}")
            if "aside" in steps[-1]:
                assert names[used[1]].startswith(f"{folder}/.file.") and ".tlkit-tmp" in names[used[1]]
        elif call.startswith(("rename", "link")):
            steps.append(call)
    steps = [step for number, step in enumerate(steps) if number == 0 or steps[number - 1] != step]
    expected = {
        "file": ["write aside", "fsync aside", "renameat", "fsync folder"],
        "link": ["linkat", "renameat", "fsync folder"],
        "folder": ["write aside", "fsync aside", "renameat2", "fsync folder"],
    }
    assert steps == expected.get(kind, expected["file"])
