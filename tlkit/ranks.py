"""Where this process stands among the ranks of a job, as its launcher says in the environment. Loads no torch.

A rank that does not come first is quiet, and of the ranks that fail one tells why. Under `tlkit --processes` that is
the launcher, which knows how all of them ended; under torchrun it is the rank that failed first.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tlkit.errors import DONE, SOME_INPUTS_FAILED, LostRankError, ResourceError, StorageError, TlkitError, UsageError
from tlkit.terminal import STANDARD_ERROR

LAUNCHER = "TLKIT_LAUNCHER"
"""Set for the ranks that tlkit starts itself: the folder where they leave notes for it."""

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Where torch's elastic agent looks for what became of a rank."""

PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG"""


@dataclass(frozen=True)
class Place:
    """One rank of a job. local_rank, local_size: among those of its machine; node, nodes: which machine it is."""

    rank: int
    size: int
    local_rank: int = 0
    local_size: int = 1
    node: int = 0
    nodes: int = 1

    def __str__(self) -> str:
        return f"rank {self.rank}{on_host(self)}"


def place() -> Place | None:
    """This process's place, None if it works alone. Raises UsageError for an environment that is not whole."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")
    texts = [os.environ.get(name, default) for name, default in zip(names, ("", "", "0", "1", "0", "1"), strict=True)]
    for name, text in zip(names, texts, strict=True):
        if not text.isdecimal():
            raise UsageError(name, f"is {text!r} in the environment, which is no number; torchrun sets it")
    found = Place(*map(int, texts))
    if "GROUP_WORLD_SIZE" not in os.environ:  # of torchrun's alone
        found = dataclasses.replace(found, nodes=-(-found.size // max(1, found.local_size)))
    if not (found.rank < found.size and found.local_rank < found.local_size):
        raise UsageError("RANK", f"is {found.rank} in the environment, but WORLD_SIZE is {found.size}")
    return found


def on_host(here: Place) -> str:
    """Which machine, where there are several."""
    return f" on {socket.gethostname()}" if here.nodes > 1 else ""


def whereabouts() -> str:
    """Which rank on which machine this is, where there are several machines."""
    with contextlib.suppress(UsageError):
        here = place()
        return f" ({here})" if here is not None and here.nodes > 1 else ""
    return ""


def require_alone(command: str) -> None:
    """Raises UsageError for a command that ranks cannot share, if it is started as one of several."""
    here = place()
    if here is not None and here.size > 1:
        problem = f"is for one process, but WORLD_SIZE is {here.size} in the environment"
        raise UsageError(command, problem, "Start it without torchrun.")


def local_ranks() -> int:
    """How many ranks share this machine's cores."""
    here = place()
    return here.local_size if here else 1


def is_follower() -> bool:
    """Whether another rank writes and talks."""
    here = place()
    return here is not None and here.rank > 0


def under_agent() -> bool:
    """Whether torch's elastic agent has started this process, and tells how its ranks end."""
    return place() is not None and "TORCHELASTIC_RUN_ID" in os.environ


@contextlib.contextmanager
def one_of_many() -> Iterator[None]:
    """Inside, a rank is as its job needs it: gone with its launcher, and quiet unless it comes first."""
    here = place()
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


def notes_folder() -> str | None:
    """Where the ranks of one agent leave word for it, and for those that it starts again after them."""
    error_file = os.environ.get(ERROR_FILE)
    attempts = os.path.dirname(os.path.dirname(os.path.dirname(error_file))) if error_file else None
    return os.environ.get(LAUNCHER) or attempts


def note(name: str, value: Any, folder: str | None = None) -> None:
    """Leave word, if there is anyone to leave it for."""
    folder = folder or notes_folder()
    if folder is None:
        return
    file = os.path.join(folder, f"tlkit-{name}.json")
    with contextlib.suppress(OSError):
        with open(f"{file}.{os.getpid()}", "w") as stream:
            json.dump(value, stream)
        os.replace(stream.name, file)


def noted(name: str, folder: str | None = None) -> Any:
    """What was left under this name; None if nothing was."""
    folder = folder or notes_folder()
    if folder is None:
        return None
    try:
        with open(os.path.join(folder, f"tlkit-{name}.json")) as stream:
            return json.load(stream)
    except (OSError, ValueError):
        return None


def earlier_run() -> str | None:
    """The run folder of the ranks that stood here before the agent restarted them."""
    found = noted("run")
    return found if isinstance(found, str) else None


def settled() -> int | None:
    """The exit status of an error that came before a restart, and would only come again."""
    found = noted("settled")
    return int(found["status"]) if isinstance(found, dict) else None


def status_for_agent(status: int) -> int:
    """What a rank that is done leaves with. An agent takes any number but 0 for a failure: images that were left out
    are for its launcher to report."""
    if not is_follower():
        note("status", status)
    return DONE if under_agent() and status == SOME_INPUTS_FAILED else status


def must_tell(error: TlkitError, lines: Sequence[str]) -> bool:
    """Whether it is for this process to say how it failed. What the agent wants to know is written down for it."""
    try:
        here = place()
    except UsageError:
        return True
    if here is None:
        return True
    is_consequence = isinstance(error, LostRankError)
    if not (is_consequence and LAUNCHER in os.environ):
        write_error_file(error, lines)
        if not isinstance(error, (ResourceError, StorageError)) and error.exit_code != TlkitError.exit_code:
            note("settled", {"status": error.exit_code, "lines": [*lines]})
    if LAUNCHER in os.environ or (is_consequence and (under_agent() or here.rank > 0)):
        return False
    if not under_agent():  # whoever listens at the port need not be one who can be asked
        return True
    from tlkit.process_group import is_first_to_tell

    return is_first_to_tell()


def write_error_file(error: TlkitError, lines: Sequence[str]) -> None:
    """As torch.distributed.elastic's own handler has it, with what a person is to be told."""
    file = os.environ.get(ERROR_FILE)
    if file is None:
        return
    now = time.time()
    extra = {"timestamp": str(int(now)), "py_callstack": ""}
    content = {"message": {"message": "\n".join(lines), "errorCode": error.exit_code, "extraInfo": extra}, "time": now}
    with contextlib.suppress(OSError), open(file, "w") as stream:
        json.dump(content, stream)
