"""A process that outlives a search and stops what that started, however it ended. Needs nothing but Python itself.

    python keeper.py MARKER FOLDER < PIPE

It waits until the other end of the pipe is closed, which the end of a process does, by whatever it ends. Then it kills
every process whose environment holds TLKIT_SEARCH=MARKER, by its id, and removes Ray's temporary folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time

VARIABLE = "TLKIT_SEARCH"


LONGEST = 30.0
"""Seconds within which all must be gone; a process that cannot be killed is in the hands of the system."""


def wait_and_kill(marker: str, folder: str) -> None:
    """Wait for the end of the search, and clean up after it."""
    while os.read(0, 1):
        pass
    stop_all(marker)
    shutil.rmtree(folder, ignore_errors=True)


def stop_all(marker: str) -> None:
    """Kill all that carry the marker, and what they start meanwhile."""
    ends_at = time.monotonic() + LONGEST
    while (found := processes_with_marker(marker)) and time.monotonic() < ends_at:
        for number in found:
            with contextlib.suppress(OSError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.05)


def processes_with_marker(marker: str) -> list[int]:
    """The processes that were started with the marker, by their ids; those that have ended are not among them."""
    sought = f"{VARIABLE}={marker}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if sought in file.read().split(b"\0"):
                    found.append(int(name))
    return found


if __name__ == "__main__":
    wait_and_kill(sys.argv[1], sys.argv[2])
