"""Talk for people on standard error, with progress bars where it is a terminal; data on standard output."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tlkit.errors import StorageError
from tlkit.interruption import die_by

Item = TypeVar("Item")


def say(label: str, text: str) -> None:
    """One line with a short label in front, as in `data      5 classes`."""
    complain(f"{label:<9} {text}")


def complain(*lines: str) -> None:
    """Lines on standard error. That nobody reads them ends nothing."""
    with contextlib.suppress(OSError):
        print(*lines, sep="\n", file=sys.stderr, flush=True)


def emit(data: str | bytes) -> None:
    """Write data to standard output now, file names as they are.

    A reader that has left ends this process by SIGPIPE, as any filter. Raises StorageError if it cannot be written.
    """
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that nothing fails again on the way out
        if isinstance(error, BrokenPipeError):
            die_by(signal.SIGPIPE)
        raise StorageError("standard output", f"cannot be written: {error.strerror}") from error


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
