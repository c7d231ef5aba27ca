"""Options of a stored run that ask for resources of this machine. Loads no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping

from tlkit.options.declare import flag_of
from tlkit.terminal import log_status

PROCESSES = ("processes", "workers")
"""Options that are numbers of processes: a run folder from somebody else may ask for any number."""


def within_machine(stored: Mapping[str, object], name: str) -> int | None:
    """A stored number of processes, at most one for each CPU core of this machine; warns if it is more. None: not set.

    A number that the user types is not limited.
    """
    value, cores = stored.get(name), len(os.sched_getaffinity(0))
    if type(value) is not int or value <= cores:
        return value if type(value) is int else None
    flag = flag_of(name)
    log_status(
        "warning",
        f"{name}: the run asks for {value:,}, but this machine has {cores} CPU cores; using {cores}. To use another "
        f"number, add {flag} N",
    )
    return cores
