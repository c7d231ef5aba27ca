"""Rank, world size and restart count from the launcher's environment variables. Loads no torch.

Ranks other than 0 print nothing. When ranks fail, one error is printed: by the launcher under `tlkit --processes`,
which sees how every rank ended; under torchrun by the rank that failed first.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tlkit.errors import UsageError
from tlkit.terminal import STANDARD_ERROR

LAUNCHER = "TLKIT_LAUNCHER"
"""Set for ranks that tlkit starts: the folder through which they report to it."""

LAUNCHER_PROCESS = "TLKIT_LAUNCHER_PROCESS"
"""Set with LAUNCHER: the process number of the launcher. It is set before the fork, so a rank whose launcher died right
after the fork notices that its parent is another process."""

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""The file in which torch's elastic agent expects the error of a rank."""

PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG"""


@dataclass(frozen=True)
class RankInfo:
    """One rank of a job. local_rank, local_size: among the ranks of its machine; node: index of that machine."""

    rank: int
    size: int
    local_rank: int = 0
    local_size: int = 1
    node: int = 0
    nodes: int = 1

    def __str__(self) -> str:
        return f"rank {self.rank}{on_host(self)}"


def rank_info() -> RankInfo | None:
    """This process's rank; None for a single process. Raises UsageError for incomplete environment variables."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")
    texts = [os.environ.get(name, default) for name, default in zip(names, ("", "", "0", "1", "0", "1"), strict=True)]
    for name, text in zip(names, texts, strict=True):
        if not text.isdecimal():
            raise UsageError(name, f"the environment variable is {text!r}; expected the number that torchrun sets")
    found = RankInfo(*map(int, texts))
    if "GROUP_WORLD_SIZE" not in os.environ:  # only torchrun sets it
        found = dataclasses.replace(found, nodes=-(-found.size // max(1, found.local_size)))
    if not (found.rank < found.size and found.local_rank < found.local_size):
        problem = f"the environment variable is {found.rank}; expected less than WORLD_SIZE, which is {found.size}"
        raise UsageError("RANK", problem)
    return found


def on_host(here: RankInfo) -> str:
    """ " on HOST" in a job of several machines, else ""."""
    return f" on {socket.gethostname()}" if here.nodes > 1 else ""


def rank_suffix() -> str:
    """ " (rank N on HOST)" in a job of several machines, else ""."""
    with contextlib.suppress(UsageError):
        here = rank_info()
        return f" ({here})" if here is not None and here.nodes > 1 else ""
    return ""


def require_single_process(command: str) -> None:
    """Raises UsageError for a command that runs in one process if it is started as one of several ranks."""
    here = rank_info()
    if here is not None and here.size > 1:
        problem = f"runs in one process, but the environment variable WORLD_SIZE is {here.size}"
        raise UsageError(command, problem, "Start it without torchrun.")


def local_ranks() -> int:
    """Number of ranks that share this machine's cores."""
    here = rank_info()
    return here.local_size if here else 1


def is_nonzero_rank() -> bool:
    """Whether rank 0 is another process, which then writes files and prints."""
    here = rank_info()
    return here is not None and here.rank > 0


def under_agent() -> bool:
    """Whether torch's elastic agent (torchrun or `tlkit --processes`) started this process."""
    return rank_info() is not None and "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def rank_process_setup() -> Iterator[None]:
    """Set a rank up: it is killed when its launcher dies, and is silent unless it is rank 0."""
    here = rank_info()
    if here is not None and under_agent():
        die_with_parent(int(os.environ.get(LAUNCHER_PROCESS, os.getppid())))
    with silence() if here is not None and here.rank > 0 else contextlib.nullcontext():
        yield


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent exits; at once if it has exited. parent: its number."""
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, int(signal.SIGKILL))
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def silence() -> Iterator[None]:
    """Redirect standard error to /dev/null, for libraries in C++ too."""
    saved = os.dup(STANDARD_ERROR)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, STANDARD_ERROR)
    os.close(null)
    try:
        yield
    finally:
        os.dup2(saved, STANDARD_ERROR)
        os.close(saved)


@contextmanager
def environment(values: Mapping[str, str], without: tuple[str, ...] = ()) -> Iterator[None]:
    """Set environment variables and unset those in `without`; restore all at exit."""
    before = {name: os.environ.pop(name, None) for name in (*values, *without)}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def attempt() -> str:
    """How often the agent has restarted the ranks. Part of every key in the store, which outlives a restart."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
