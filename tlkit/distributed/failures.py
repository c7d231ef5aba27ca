"""Notes that ranks leave for their launcher, and the choice of the rank that prints an error."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

from tlkit.distributed.env import ERROR_FILE, LAUNCHER, attempt, is_nonzero_rank, rank_info, silence, under_agent
from tlkit.errors import (
    DONE,
    SOME_INPUTS_FAILED,
    LostRankError,
    ResourceError,
    StorageError,
    TlkitError,
    UsageError,
)

Value = TypeVar("Value")


def claim_error_report() -> bool:
    """Whether this is the first rank that reports an error; True if the store cannot be reached."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        with silence():
            store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))
            return int(store.add(f"tlkit failed {attempt()}", 1)) == 1
    except (KeyError, ValueError, RuntimeError, OSError):
        return True


def notes_folder() -> str | None:
    """The folder in which the ranks of one agent leave notes for it and for the ranks after a restart."""
    error_file = os.environ.get(ERROR_FILE)
    attempts = os.path.dirname(os.path.dirname(os.path.dirname(error_file))) if error_file else None
    return os.environ.get(LAUNCHER) or attempts


def write_note(name: str, value: object, folder: str | None = None) -> None:
    """Write a note, a JSON value. Does nothing without a launcher, or if the note cannot be written."""
    folder = folder or notes_folder()
    if folder is None:
        return
    file = os.path.join(folder, f"tlkit-{name}.json")
    with contextlib.suppress(OSError):
        with open(f"{file}.{os.getpid()}", "w") as stream:
            json.dump(value, stream)
        os.replace(stream.name, file)


def read_note(name: str, kind: type[Value], folder: str | None = None) -> Value | None:
    """The value of a note; None if there is none of this type."""
    folder = folder or notes_folder()
    try:
        if folder is not None:
            with open(os.path.join(folder, f"tlkit-{name}.json")) as stream:
                value = json.load(stream)
            return value if isinstance(value, kind) else None
    except (OSError, ValueError):
        pass
    return None


def fatal_exit_status() -> int | None:
    """The exit status of an error before a restart that would only happen again."""
    found = read_note("settled", dict)
    return int(found["status"]) if found else None


def status_for_agent(status: int) -> int:
    """The exit status for the agent, which treats all but 0 as a failure. Skipped images are not one: the launcher
    reads the true status from a note."""
    if not is_nonzero_rank():
        write_note("status", status)
    return DONE if under_agent() and status == SOME_INPUTS_FAILED else status


def should_report_error(error: TlkitError, lines: Sequence[str]) -> bool:
    """Whether this process prints its error. Writes torchelastic's error file too."""
    try:
        here = rank_info()
    except UsageError:
        return True
    if here is None:
        return True
    is_consequence = isinstance(error, LostRankError)
    if not (is_consequence and LAUNCHER in os.environ):
        write_error_file(error, lines)
        if not isinstance(error, (ResourceError, StorageError)) and error.exit_code != TlkitError.exit_code:
            write_note("settled", {"status": error.exit_code, "lines": [*lines]})
    if LAUNCHER in os.environ or (is_consequence and (under_agent() or here.rank > 0)):
        return False
    # Without an agent, the process that listens at MASTER_PORT may be something else than torch's store.
    return claim_error_report() if under_agent() else True


def write_error_file(error: TlkitError, lines: Sequence[str]) -> None:
    """Write an error in the format of torch.distributed.elastic's own handler, for its agent to read."""
    file = os.environ.get(ERROR_FILE)
    if file is None:
        return
    now = time.time()
    extra = {"timestamp": str(int(now)), "py_callstack": ""}
    content = {"message": {"message": "\n".join(lines), "errorCode": error.exit_code, "extraInfo": extra}, "time": now}
    with contextlib.suppress(OSError), open(file, "w") as stream:
        json.dump(content, stream)
