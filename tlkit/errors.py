"""Errors that a user can act on, each kind with its exit code."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import ClassVar

from tlkit.memory_limit import is_near_limit, more_memory

MOST_LISTED = 10
"""Files, classes and the like that a message lists; the others are counted."""


def escape_name(text: str) -> str:
    r"""A file name on one line; control characters and characters that cannot be shown are written as \x1b or \n."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def listing(lines: Iterable[str]) -> str:
    """Indented lines; after MOST_LISTED lines only the number of the rest."""
    indented = [f"  {escape_name(line)}" for line in lines]
    more = [f"  and {len(indented) - MOST_LISTED:,} more"] if len(indented) > MOST_LISTED else []
    return "\n".join(indented[:MOST_LISTED] + more)


class TlkitError(Exception):
    """A problem a person can act on.

    subject: the file, folder or flag. problem: what is wrong, and what was expected. hint: how to fix it; each line is
    a piece of advice that is printed if the command has the options in it. listed: lines about single files and the
    like, of which the first ten are printed. The first line is ``tlkit COMMAND: SUBJECT: PROBLEM``.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, subject: str, problem: str, hint: str = "", listed: Iterable[str] = ()) -> None:
        super().__init__(f"{subject}: {problem}")
        self.subject = subject
        self.problem = problem
        self.hint = hint
        self.listed = [*listed]

    def __reduce__(self) -> tuple[object, ...]:
        """Errors are sent between processes, with their notes."""
        return type(self), (self.subject, self.problem, self.hint, self.listed), self.__dict__


class UsageError(TlkitError):
    """Invalid options, or an invalid combination of them."""

    exit_code = 2


class DataError(TlkitError):
    """Images, folders or files with invalid content; a loss that is not finite."""

    exit_code = 65


class MissingInputError(TlkitError):
    """A named input that does not exist or cannot be read."""

    exit_code = 66


class UnavailableError(TlkitError):
    """Weights or a device that are not available."""

    exit_code = 69


class ResourceError(TlkitError):
    """Out of memory, or a worker that died."""

    exit_code = 71


class LostRankError(ResourceError):
    """Another process of the job died or does not respond. It, or its launcher, reports the cause."""


class OutputError(TlkitError):
    """An output that cannot be created, or a run folder that is in use."""

    exit_code = 73


class StorageError(TlkitError):
    """An input/output error: a full disk, a failing device."""

    exit_code = 74


class UnsafeError(TlkitError):
    """A file that would run code when opened."""

    exit_code = 77


class MismatchError(TlkitError):
    """A checkpoint that does not match the options, the weights or this version."""

    exit_code = 78


OUT_OF_MEMORY = (
    "out of memory",
    "llocate memory",
    "bad_alloc",
    "bad allocation",
    "can't start new thread",
    "Resource temporarily unavailable",
)
"""Phrases in the messages of CUDA, torch's allocator, the system, the C++ library and Python."""

NO_MEMORY_FOR_LIBRARY = "failed to map segment from shared object"
"""The end of the loader's message when a library does not fit into memory; for other reasons, the reason follows it."""

LOST_RANK = ("gloo/", "NCCL", "DistBackendError", "DistNetworkError", "DistStoreError")
"""Names of torch's transports between processes, which appear in the messages of lost connections."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

FAILING = (*FULL, errno.EIO)
"""Error numbers of a full or broken disk."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; its class name if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def is_memory(error: BaseException) -> bool:
    """Whether an exception means out of memory."""
    text = str(error)
    known = any(words in text for words in OUT_OF_MEMORY) or text.endswith(NO_MEMORY_FOR_LIBRARY)
    return isinstance(error, MemoryError) or known


def to_tlkit_error(error: Exception) -> TlkitError:
    """An exception as a TlkitError: out of memory, a lost process, a full disk, or a bug."""
    if isinstance(error, TlkitError):
        return error
    text = first_line(error)
    if is_memory(error):
        return ResourceError("memory", f"out of memory ({text})", more_memory())
    if isinstance(error, RuntimeError) and any(word in f"{type(error).__name__}: {error}" for word in LOST_RANK):
        reason = text.partition(". ")[0]
        return LostRankError("processes", f"another process died or does not respond ({reason})")
    if isinstance(error, OSError) and error.errno in FAILING:
        subject, what = ("output", "written") if error.errno in FULL else ("a file", "read or written")
        return StorageError(error.filename or subject, f"cannot be {what}: {error.strerror}")
    problem = f"{type(error).__name__}: {text}"
    if is_near_limit():
        return ResourceError("memory", f"out of memory, most likely ({problem})", more_memory())
    return TlkitError(
        "unexpected error",
        problem,
        "This is a bug in tlkit. Run the command again with --debug and report the traceback.",
    )


DONE = 0
SOME_INPUTS_FAILED = 3
ALL_INPUTS_FAILED = 4
