"""What a decoder does when it goes wrong, by the size of the image; imported by a decoder process before it begins."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable

from tlkit.data import decoders
from tlkit.data.header import Header

PROGRAM = f"import tests.data.faults; {decoders.PROGRAM}"
"""In place of decoders.PROGRAM."""


def compute_for_ever() -> None:
    while True:
        pass


def take_all_memory() -> None:
    taken = []
    while True:
        taken.append(bytes(200 << 20))


def raise_an_odd_error() -> None:
    raise RecursionError("something that no decoder should raise")


def answer_without_end() -> None:
    os.write(0, (1 << 30).to_bytes(4, "little"))
    time.sleep(600)


FAULTS: dict[tuple[int, int], Callable[[], object]] = {
    (13, 1): compute_for_ever,
    (13, 2): lambda: time.sleep(600),
    (13, 3): lambda: ctypes.string_at(0),
    (13, 4): os.abort,
    (13, 5): take_all_memory,
    (13, 6): lambda: os.kill(os.getpid(), signal.SIGKILL),
    (13, 7): raise_an_odd_error,
    (13, 8): answer_without_end,
}
CODES = {
    (13, 1): "decode_timeout",
    (13, 2): "decode_timeout",
    (13, 3): "image_corrupt",
    (13, 4): "image_corrupt",
    (13, 5): "image_corrupt",
    (13, 7): "image_corrupt",
    (13, 8): "image_corrupt",
}
"""What becomes of an image that makes a decoder do so; (13, 6) stands for the kernel, out of memory."""

without_fault = Header.frames


def with_fault(header: Header) -> int:
    FAULTS.get(header.image.size, int)()
    return without_fault.func(header)


Header.frames = property(with_fault)
