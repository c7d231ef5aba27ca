"""Where this process stands among the ranks of a job, as its launcher says in the environment. Loads no torch.

A rank that does not come first is quiet, and of the ranks that fail one tells why. Under `tlkit --processes` that is
the launcher, which knows how all of them ended; under torchrun it is the rank that failed first.
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
"""Set for the ranks that tlkit starts itself: the folder where they leave notes for it."""


ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Where torch's elastic agent looks for what became of a rank."""


PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG"""


@dataclass(frozen=True)
class RankInfo:
    """One rank of a job. local_rank, local_size: among those of its machine; node, nodes: which machine it is."""

    rank: int
    size: int
    local_rank: int = 0
    local_size: int = 1
    node: int = 0
    nodes: int = 1

    def __str__(self) -> str:
        return f"rank {self.rank}{on_host(self)}"


def rank_info() -> RankInfo | None:
    """This process's place, None if it works alone. Raises UsageError for an environment that is not whole."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")
    texts = [os.environ.get(name, default) for name, default in zip(names, ("", "", "0", "1", "0", "1"), strict=True)]
    for name, text in zip(names, texts, strict=True):
        if not text.isdecimal():
            raise UsageError(name, f"is {text!r} in the environment, which is no number; torchrun sets it")
    found = RankInfo(*map(int, texts))
    if "GROUP_WORLD_SIZE" not in os.environ:  # of torchrun's alone
        found = dataclasses.replace(found, nodes=-(-found.size // max(1, found.local_size)))
    if not (found.rank < found.size and found.local_rank < found.local_size):
        raise UsageError("RANK", f"is {found.rank} in the environment, but WORLD_SIZE is {found.size}")
    return found


def on_host(here: RankInfo) -> str:
    """Which machine, where there are several."""
    return f" on {socket.gethostname()}" if here.nodes > 1 else ""


def rank_suffix() -> str:
    """Which rank on which machine this is, where there are several machines."""
    with contextlib.suppress(UsageError):
        here = rank_info()
        return f" ({here})" if here is not None and here.nodes > 1 else ""
    return ""


def require_single_process(command: str) -> None:
    """Raises UsageError for a command that ranks cannot share, if it is started as one of several."""
    here = rank_info()
    if here is not None and here.size > 1:
        problem = f"is for one process, but WORLD_SIZE is {here.size} in the environment"
        raise UsageError(command, problem, "Start it without torchrun.")


def local_ranks() -> int:
    """How many ranks share this machine's cores."""
    here = rank_info()
    return here.local_size if here else 1


def is_nonzero_rank() -> bool:
    """Whether another rank writes and talks."""
    here = rank_info()
    return here is not None and here.rank > 0


def under_agent() -> bool:
    """Whether torch's elastic agent has started this process, and tells how its ranks end."""
    return rank_info() is not None and "TORCHELASTIC_RUN_ID" in os.environ


@contextlib.contextmanager
def rank_process_setup() -> Iterator[None]:
    """Inside, a rank is as its job needs it: gone with its launcher, and quiet unless it comes first."""
    here = rank_info()
    if here is None:
        yield
        return
    if under_agent():
        go_with_parent()
    if here.rank == 0:
        yield
        return
    with silence():
        yield


def go_with_parent() -> None:
    """Ask the kernel to kill this process when the one that started it is gone, however that ends."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, int(signal.SIGKILL))
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Inside, nothing reaches standard error: all that is said there, the first rank says too."""
    kept = os.dup(STANDARD_ERROR)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STANDARD_ERROR)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, STANDARD_ERROR)
        os.close(kept)


@contextmanager
def environment(values: Mapping[str, str], without: tuple[str, ...] = ()) -> Iterator[None]:
    """Inside, these variables are set, and those of `without` are not."""
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
    """How often the agent has started the ranks again; what they leave in its store outlives them."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
