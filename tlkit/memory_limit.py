"""`ulimit -v`: libraries in C report a lack of memory in many ways; some look like bugs, some end the process."""

from __future__ import annotations

import os
import resource

NEAR = 0.5
"""Share of the limit above which an unexpected error counts as a lack of memory: libraries take large pieces of it."""


def memory_limit() -> int | None:
    """The bytes of address space that this process may have; None without a limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def is_near_limit() -> bool:
    """Whether this process has had so much address space that an unexpected error may be a lack of memory."""
    limit = memory_limit()
    if limit is None:
        return False
    try:
        with open("/proc/self/status") as status:
            peak = int(status.read().partition("VmPeak:")[2].split()[0]) << 10
    except (OSError, IndexError, ValueError):
        return True
    return peak > NEAR * limit


def more_memory() -> str:
    """A hint for a process that is out of memory; it names the limit, if there is one."""
    limit = memory_limit()
    if limit is None:
        return "Try a smaller --batch-size or --image-size."
    return f"`ulimit -v` limits memory to {limit >> 10} KB here: start tlkit from a shell with a higher limit."


def report_exit_of_libraries(prefix: str, status: int) -> None:
    """Change the exit status 1 of OpenMP and OpenBLAS, which end the process if a thread gets no memory, and say why.

    Only under a limit, and only until the interpreter exits: then no code in Python can run any more.
    """
    if memory_limit() is None:
        return
    import atexit
    import ctypes

    libc = ctypes.CDLL(None)
    if not hasattr(libc, "on_exit"):  # other C libraries than glibc
        return

    def at_exit(found: int, argument: object) -> None:
        if found == 1:
            os.write(2, f"{prefix}: memory: out of memory (a library ended the process)\n{more_memory()}\n".encode())
            os._exit(status)

    kept.append(ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)(at_exit))
    libc.on_exit(kept[-1], None)
    # The function that is registered last is called first: C's own _exit, with the status as its argument.
    atexit.register(libc.on_exit, libc._exit, None)


kept: list[object] = []
"""Functions that C may call until the process ends."""
