"""Notes that ranks leave about errors, and which rank reports an error."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

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


def claim_error_report() -> bool:
    """Whether this rank is the first that has to say why it failed; if that cannot be found out, it is."""
    from torch._C._distributed_c10d import TCPStore

    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        with silence():
            store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))
            return int(store.add(f"tlkit failed {attempt()}", 1)) == 1
    except (KeyError, ValueError, RuntimeError, OSError):
        return True


def notes_folder() -> str | None:
    """Where the ranks of one agent leave word for it, and for those that it starts again after them."""
    error_file = os.environ.get(ERROR_FILE)
    attempts = os.path.dirname(os.path.dirname(os.path.dirname(error_file))) if error_file else None
    return os.environ.get(LAUNCHER) or attempts


def write_note(name: str, value: Any, folder: str | None = None) -> None:
    """Leave word, if there is anyone to leave it for."""
    folder = folder or notes_folder()
    if folder is None:
        return
    file = os.path.join(folder, f"tlkit-{name}.json")
    with contextlib.suppress(OSError):
        with open(f"{file}.{os.getpid()}", "w") as stream:
            json.dump(value, stream)
        os.replace(stream.name, file)


def read_note(name: str, folder: str | None = None) -> Any:
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
    found = read_note("run")
    return found if isinstance(found, str) else None


def fatal_exit_status() -> int | None:
    """The exit status of an error that came before a restart, and would only come again."""
    found = read_note("settled")
    return int(found["status"]) if isinstance(found, dict) else None


def status_for_agent(status: int) -> int:
    """What a rank that is done leaves with. An agent takes any number but 0 for a failure: images that were left out
    are for its launcher to report."""
    if not is_nonzero_rank():
        write_note("status", status)
    return DONE if under_agent() and status == SOME_INPUTS_FAILED else status


def should_report_error(error: TlkitError, lines: Sequence[str]) -> bool:
    """Whether it is for this process to say how it failed. What the agent wants to know is written down for it."""
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
    if not under_agent():  # whoever listens at the port need not be one who can be asked
        return True

    return claim_error_report()


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
