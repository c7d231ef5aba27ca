"""Status lines and progress bars on standard error; nothing but data on standard output."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tlkit.errors import StorageError, escape_name
from tlkit.interruption import HANDLED, die_by

Item = TypeVar("Item")
STANDARD_OUTPUT, STANDARD_ERROR = 1, 2

data_output = STANDARD_OUTPUT
"""The descriptor for data: standard output, or its copy inside `output_for_data_alone`."""

beside_bars: Callable[[], str] = str
"""Text next to progress bars; empty unless a command sets it."""


def show_beside_bars(note: Callable[[], str]) -> None:
    """Show the text that this function returns next to progress bars."""
    global beside_bars
    beside_bars = note


def log_status(label: str, text: str) -> None:
    """Print one status line with a short label: `data      5 classes`."""
    print_error(f"{label:<9} {text}")


def print_error(*lines: str) -> None:
    """Print lines on standard error, control characters escaped. Errors of writing are ignored."""
    text = escape_control_chars("\n".join(lines)) + "\n"
    # Not through sys.stderr, which would try again at exit to write a failed line.
    with contextlib.suppress(OSError):
        write_lines(STANDARD_ERROR, text.encode(sys.stderr.encoding or "utf-8", "backslashreplace"))


def escape_control_chars(text: str) -> str:
    r"""Text without control characters: all except newline and tab are written as \x1b."""
    return "\n".join("\t".join(map(escape_name, line.split("\t"))) for line in text.split("\n"))


def write_stdout(data: str | bytes) -> None:
    """Write data to standard output at once, in whole lines; control characters are escaped on a terminal only.

    If the reader has closed the pipe, SIGPIPE ends this process, even if data is empty. Raises StorageError.
    """
    content = data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape")
    if os.isatty(data_output):
        content = escape_control_chars(content.decode("utf-8", "backslashreplace")).encode()
    try:
        write_lines(data_output, content)
    except BrokenPipeError:
        die_by(signal.SIGPIPE)
    except OSError as error:
        raise StorageError("standard output", f"cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def output_for_data_alone() -> Iterator[None]:
    """Inside, only `write_stdout` reaches standard output; output of libraries, also from C, goes to standard error."""
    global data_output
    data_output = os.dup(STANDARD_OUTPUT)
    os.dup2(STANDARD_ERROR, STANDARD_OUTPUT)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os.dup2(data_output, STANDARD_OUTPUT)
        os.close(data_output)
        data_output = STANDARD_OUTPUT


@contextlib.contextmanager
def output_for_processes() -> Iterator[None]:
    """Inside, child processes inherit the real standard output."""
    kept = os.dup(STANDARD_OUTPUT)
    os.dup2(data_output, STANDARD_OUTPUT)
    try:
        yield
    finally:
        os.dup2(kept, STANDARD_OUTPUT)
        os.close(kept)


def write_lines(descriptor: int, content: bytes) -> None:
    """Write all content, with no line split by a signal or by other processes that write to the same pipe.

    A pipe accepts up to PIPE_BUF bytes atomically, so each write is as many whole lines as fit.
    """
    start = 0
    while True:
        end = content.rfind(b"\n", start, start + select.PIPE_BUF) + 1 or content.find(b"\n", start) + 1
        write_unbroken(descriptor, memoryview(content)[start : end or None])
        start = end or len(content)
        if start == len(content):
            return


def write_unbroken(descriptor: int, piece: memoryview) -> None:
    """Write a piece. Signals can interrupt the wait for the reader, but not the write."""
    ready = select.poll()
    ready.register(descriptor, select.POLLOUT)
    if ready.poll()[0][1] & select.POLLERR:
        raise BrokenPipeError
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        while piece:
            try:
                piece = piece[os.write(descriptor, piece) :]
            except BlockingIOError:  # the descriptor is non-blocking
                ready.poll()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def progress(items: Iterable[Item], label: str, total: int, unit: str = "image") -> Iterator[Item]:
    """Yield the items with a progress bar on a terminal. A tuple counts as the length of its first element.

    The bar shows images per second and the time left.
    """
    from tqdm import tqdm

    with tqdm(
        total=total, desc=f"{label:<9}", unit=unit, file=sys.stderr, disable=None, leave=False, dynamic_ncols=True
    ) as bar:
        for item in items:
            yield item
            if not bar.disable:
                bar.set_postfix_str(beside_bars(), refresh=False)
            bar.update(len(item[0]) if isinstance(item, tuple) else 1)


def count(number: int, singular: str, plural: str | None = None) -> str:
    """1 image, 2 images"""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def compact(number: float) -> str:
    """138357544 -> 138.4 M"""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f}"
