"""Signals: finish writes that must be complete, then end by the signal."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

SAME_SIGNAL = 0.3
"""Seconds within which signals count as one: closing terminals and forwarding programs send pairs."""


class Interrupted(BaseException):
    """A signal requests the end of this process. A BaseException, so that no `except Exception` swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interruption:
    """Turns signals into an Interrupted exception at once, or inside `deferred` into a flag.

    announcement: the message printed when a signal arrives; none if empty.
    """

    def __init__(self, announcement: str = "") -> None:
        self.requested: int | None = None
        self.announcement = announcement
        self._deferring = False
        self._raised = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler. Python calls it between bytecodes, so not inside a long computation in C."""
        self.requested = self.requested or number
        if not self._deferring and not self._raised:  # a second signal must not interrupt the cleanup after the first
            self.raise_if_requested()

    def watch(self, descriptor: int, numbers: list[int]) -> None:
        """Read signal numbers in a thread, also while the main thread computes: print the announcement at the first
        signal, end the process at once at a second. Returns when the stream ends."""
        first_at: float | None = None
        while received := os.read(descriptor, 1):
            number = received[0]
            if number not in numbers:
                continue
            if first_at is not None:
                if time.monotonic() - first_at > SAME_SIGNAL:
                    # signal.signal works in the main thread only, which may be computing.
                    ctypes.CDLL(None).signal(ctypes.c_int(number), ctypes.c_void_p(signal.SIG_DFL))
                    os.kill(os.getpid(), number)
                continue
            first_at = time.monotonic()
            self.requested = self.requested or number
            if self.announcement:
                with contextlib.suppress(OSError):
                    os.write(2, f"\n{signal.Signals(number).name}: {self.announcement} ...\n".encode())

    @contextlib.contextmanager
    def deferred(self, announcement: str) -> Iterator[None]:
        """Inside, a signal only sets `requested`; the code calls `raise_if_requested` where it can stop."""
        before, self.announcement = self.announcement, announcement
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
            self.announcement = before
        self.raise_if_requested()

    def raise_if_requested(self) -> None:
        """Raise Interrupted if a signal arrived."""
        if self.requested is not None:
            self._raised = True
            raise Interrupted(self.requested)


active: list[Interruption] = []
"""The interruptions of nested `handled` blocks; the last one handles signals."""


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold signals back inside. For code that turns any exception into another one, such as importing a C extension:
    the signal would look like a missing library."""
    if not active or active[-1]._deferring:
        yield
        return
    with active[-1].deferred(active[-1].announcement):
        yield


@contextlib.contextmanager
def handled(announcement: str = "") -> Iterator[Interruption]:
    """Handle SIGINT, SIGTERM and SIGHUP inside; restore the handlers afterwards."""
    interruption = Interruption(announcement)
    # Ignored signals stay ignored: nohup and background jobs rely on it.
    wanted = [number for number in HANDLED if signal.getsignal(number) is not signal.SIG_IGN]
    listening, report_failures = os.pipe()
    os.set_blocking(report_failures, False)
    watcher = threading.Thread(
        target=interruption.watch, args=(listening, [*map(int, wanted)]), name="signals", daemon=True
    )
    watcher.start()
    previous_fd = signal.set_wakeup_fd(report_failures, warn_on_full_buffer=False)
    previous = {number: signal.signal(number, interruption.handle) for number in wanted}
    active.append(interruption)
    try:
        yield interruption
    finally:
        active.pop()
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_fd)
        os.close(report_failures)
        watcher.join()
        os.close(listening)


def die_by(number: int) -> None:
    """End this process by the signal itself, so that the parent sees the cause."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
