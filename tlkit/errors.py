"""Every error that is the user's to mend, each kind with its exit code."""

from __future__ import annotations

import errno
from typing import ClassVar


def escape_name(text: str) -> str:
    r"""A file name as one harmless line: what a terminal would act on, or cannot show, is written as \x1b or \n."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class TlkitError(Exception):
    """A problem a person can act on.

    subject: the file, folder or flag it is about. problem: what was found and what was expected.
    hint: what to do, on the lines after the first. The first line a user sees is
    ``tlkit COMMAND: SUBJECT: PROBLEM``.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, subject: str, problem: str, hint: str = "") -> None:
        super().__init__(f"{subject}: {problem}")
        self.subject = subject
        self.problem = problem
        self.hint = hint


class UsageError(TlkitError):
    """Flags that are wrong, or do not go together."""

    exit_code = 2


class DataError(TlkitError):
    """Images, folders or files whose content is bad; a loss that is no longer a number."""

    exit_code = 65


class MissingInputError(TlkitError):
    """A named input that is not there or cannot be read."""

    exit_code = 66


class UnavailableError(TlkitError):
    """Weights or a device that cannot be had here."""

    exit_code = 69


class ResourceError(TlkitError):
    """Out of memory, or a worker that died."""

    exit_code = 71


class LostRankError(ResourceError):
    """Another rank of the job is gone, or does not answer: what happened there is for it, or its launcher, to say."""


class OutputError(TlkitError):
    """An output that cannot be created, or a run folder that is in use."""

    exit_code = 73


class StorageError(TlkitError):
    """An input/output error while working: a full disk, a failing device."""

    exit_code = 74


class UnsafeError(TlkitError):
    """A file that would run code if it were opened."""

    exit_code = 77


class MismatchError(TlkitError):
    """A checkpoint that does not fit the options, the weights or this version."""

    exit_code = 78


MEMORY_IS_USED_UP = ("out of memory", "llocate memory", "bad_alloc", "bad allocation")
"""As CUDA, torch's own allocator, the system, and the C++ library say it."""


RANK_IS_LOST = ("gloo/", "NCCL", "DistBackendError", "DistNetworkError", "DistStoreError")
"""How torch's transports between ranks say that the other end does not answer: by their name."""


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


FAILING = (*FULL, errno.EIO)
"""What a disk answers that has no room, or is broken."""


def first_line(error: BaseException) -> str:
    """The first line of what an exception says; its kind if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def is_memory(error: BaseException) -> bool:
    """Whether an exception says that memory is used up, which is nobody's fault."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in MEMORY_IS_USED_UP)


def is_lost_rank(error: BaseException) -> bool:
    """Whether an exception says that the way to another rank is broken."""
    return isinstance(error, RuntimeError) and any(w in f"{type(error).__name__}: {error}" for w in RANK_IS_LOST)


def to_tlkit_error(error: Exception) -> TlkitError:
    """An exception as the error it means: itself if it is one of ours, else memory at its end, or a bug."""
    if isinstance(error, TlkitError):
        return error
    text = first_line(error)
    if is_memory(error):
        return ResourceError("memory", f"is used up ({text})", "Try a smaller --batch-size or --image-size.")
    if is_lost_rank(error):
        reason = text.partition(". ")[0]
        return LostRankError("ranks", f"another rank is gone, or does not answer ({reason})")
    if isinstance(error, OSError) and error.errno in FAILING:
        subject, what = ("output", "written") if error.errno in FULL else ("a file", "read or written")
        return StorageError(error.filename or subject, f"cannot be {what}: {error.strerror}")
    return TlkitError("unexpected error", f"{type(error).__name__}: {text}", "Run it again with --debug to see where.")


DONE = 0


SOME_INPUTS_FAILED = 3
