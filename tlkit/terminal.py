"""Talk for people on standard error, with progress bars where it is a terminal; data alone on standard output."""

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
"""Where data goes: standard output, or inside `output_for_data_alone` what that keeps of it."""


beside_bars: Callable[[], str] = str
"""What progress bars show beside themselves: nothing, unless a command has something to show."""


def show_beside_bars(note: Callable[[], str]) -> None:
    """Ask for this, and show it, whenever a bar moves."""
    global beside_bars
    beside_bars = note


def log_status(label: str, text: str) -> None:
    """One line with a short label in front, as in `data      5 classes`."""
    print_error(f"{label:<9} {text}")


def print_error(*lines: str) -> None:
    """Lines on standard error; what would steer a terminal is escaped. That nobody reads them ends nothing."""
    text = escape_control_chars("\n".join(lines)) + "\n"
    # Past the buffer of sys.stderr: what that cannot write, it tries again, and fails, when the process ends.
    with contextlib.suppress(OSError):
        write_lines(STANDARD_ERROR, text.encode(sys.stderr.encoding or "utf-8", "backslashreplace"))


def escape_control_chars(text: str) -> str:
    r"""Text of which a terminal obeys nothing but newline and tab; what else it would act on is written as \x1b."""
    return "\n".join("\t".join(map(escape_name, line.split("\t"))) for line in text.split("\n"))


def write_stdout(data: str | bytes) -> None:
    """Write data to standard output now: whole lines, file names as they are, but harmless on a terminal.

    A reader that has left ends this process by SIGPIPE, as any filter; having nothing to write is enough to notice.
    Raises StorageError if it cannot be written.
    """
    content = data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape")
    if os.isatty(data_output):
        content = escape_control_chars(content.decode("utf-8", "backslashreplace")).encode()
    with output_errors():
        write_lines(data_output, content)


@contextlib.contextmanager
def output_for_data_alone() -> Iterator[None]:
    """Inside, only `emit` reaches standard output; what libraries print there, from C too, goes to standard error."""
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
    """Inside, processes that are started get standard output itself."""
    kept = os.dup(STANDARD_OUTPUT)
    os.dup2(data_output, STANDARD_OUTPUT)
    try:
        yield
    finally:
        os.dup2(kept, STANDARD_OUTPUT)
        os.close(kept)


@contextlib.contextmanager
def output_errors() -> Iterator[None]:
    """Inside, a reader of standard output that has left ends this process; other errors become a StorageError."""
    try:
        yield
    except BrokenPipeError:
        die_by(signal.SIGPIPE)
    except OSError as error:
        raise StorageError("standard output", f"cannot be written: {error.strerror}") from error


def write_lines(descriptor: int, content: bytes) -> None:
    """Write all of it, lines never broken: not by a signal, not by what other processes write to the same pipe.

    A pipe takes up to PIPE_BUF bytes in one piece, so pieces are whole lines of together no more where they can be.
    """
    start = 0
    while True:
        end = content.rfind(b"\n", start, start + select.PIPE_BUF) + 1 or content.find(b"\n", start) + 1
        write_unbroken(descriptor, memoryview(content)[start : end or None])
        start = end or len(content)
        if start == len(content):
            return


def write_unbroken(descriptor: int, piece: memoryview) -> None:
    """Write a piece. A signal can end the wait for a reader before it, and has to wait in the middle of it."""
    ready = select.poll()
    ready.register(descriptor, select.POLLOUT)
    if ready.poll()[0][1] & select.POLLERR:
        raise BrokenPipeError
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        while piece:
            try:
                piece = piece[os.write(descriptor, piece) :]
            except BlockingIOError:  # whoever gave us the descriptor made it so
                ready.poll()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def progress(items: Iterable[Item], label: str, total: int, unit: str = "image") -> Iterator[Item]:
    """Pass items on, with a bar while they last. Items that are sized tuples or tensors count as their length.

    The bar shows images per second and the time left; it is drawn on a terminal only.
    """
    from tqdm import tqdm

    with tqdm(
        total=total,
        desc=f"{label:<9}",
        unit=unit,
        file=sys.stderr,
        disable=None,
        leave=False,
        dynamic_ncols=True,
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
