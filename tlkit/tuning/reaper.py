"""Process that kills what a search has started, after the search has ended in any way. Needs only the standard library.

    python reaper.py MARKER FOLDER < PIPE

It waits until the other end of the pipe is closed, which the kernel does when the search's process ends. Then it kills
every process with TLKIT_SEARCH=MARKER in its environment and removes Ray's temporary folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time

MARKER_VARIABLE = "TLKIT_SEARCH"

KILL_SECONDS = 30.0
"""Seconds to try; a process in an uninterruptible system call may survive."""


def wait_and_kill(marker: str, folder: str) -> None:
    """Wait for the end of the search, kill its processes and remove its folder."""
    while os.read(0, 1):
        pass
    kill_all(marker)
    shutil.rmtree(folder, ignore_errors=True)


def kill_all(marker: str) -> None:
    """Kill the processes with the marker, also those they start meanwhile."""
    ends_at = time.monotonic() + KILL_SECONDS
    while (found := processes_with_marker(marker)) and time.monotonic() < ends_at:
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def processes_with_marker(marker: str) -> list[int]:
    """The ids of running processes that have the marker in their environment."""
    sought = f"{MARKER_VARIABLE}={marker}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if sought in file.read().split(b"\0"):
                    found.append(int(name))
    return found


if __name__ == "__main__":
    wait_and_kill(sys.argv[1], sys.argv[2])
