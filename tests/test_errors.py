"""What an exception means, and with which exit code it ends."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from tlkit.errors import ResourceError, first_line, to_tlkit_error


def system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "some file")


MEANINGS: list[tuple[Exception, int, str]] = [
    (MemoryError(), 71, "memory: out of memory (MemoryError)"),
    (RuntimeError("CUDA out of memory.\nMore"), 71, "memory: out of memory (CUDA out of memory.)"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 71, "out of memory"),
    (RuntimeError("std::bad_alloc"), 71, "out of memory"),
    (system_error(errno.ENOMEM), 71, "out of memory"),
    (system_error(errno.ENOSPC), 74, "some file: cannot be written: No space left"),
    (system_error(errno.EFBIG), 74, "some file: cannot be written: File too large"),
    (system_error(errno.EIO), 74, "some file: cannot be read or written: Input/output"),
    (system_error(errno.EPIPE), 1, "unexpected error"),
    (RuntimeError("shape"), 1, "unexpected error: RuntimeError: shape"),
]


@pytest.mark.parametrize(("error", "status", "text"), MEANINGS, ids=lambda value: str(value)[:30])
def test_what_an_exception_means(error: Exception, status: int, text: str) -> None:
    known = to_tlkit_error(error)
    assert known.exit_code == status and text in str(known)
    assert to_tlkit_error(known) is known


@pytest.mark.parametrize(
    ("text", "line"), [("one\ntwo", "one"), ("\n\n one", "one"), ("", "ValueError"), (" ", "ValueError")]
)
def test_the_first_line_of_an_exception(text: str, line: str) -> None:
    assert first_line(ValueError(text)) == line


def test_an_error_is_never_its_own_cause(tmp_path: Path) -> None:
    """Whoever follows the causes would never end."""
    from tlkit.files.run_folder import RunFolder
    from tlkit.options import FinetuneOptions
    from tlkit.runs.record import recorded_in_status

    class Standing:
        def where(self) -> dict[str, Any]:
            return {}

    state: Any = Standing()
    for error in (ResourceError("a worker", "died"), MemoryError()):
        with (
            pytest.raises(ResourceError) as caught,
            recorded_in_status(RunFolder(str(tmp_path)), FinetuneOptions(data="x"), state),
        ):
            raise error
        assert caught.value.__cause__ is not caught.value
        assert (caught.value is error) == isinstance(error, ResourceError)
