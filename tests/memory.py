"""How much memory a call takes, measured in a process of its own."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable
from pathlib import Path


def peak_growth(call: Callable[[], object]) -> tuple[int, str]:
    """By how many bytes resident memory grew at most while a forked process ran this, and how it ended: "done", or the
    name of the exception and its text."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            before, outcome = resident("VmRSS"), "done"
            try:
                call()
            except Exception as error:
                outcome = f"{type(error).__name__} {error}"
            os.write(writer, f"{resident('VmHWM') - before} {outcome}".encode("utf-8", "backslashreplace")[:4000])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(child, 0)
    assert answer, "the process was killed"
    grown, _, outcome = answer.partition(" ")
    return int(grown), outcome


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return 1024 * int(match[1])
