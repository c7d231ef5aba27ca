"""Signals: finish what must be whole, then end the way the signal asks."""

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


ONE_WISH = 0.3
"""Seconds within which signals count as one: terminals that close, and programs that pass signals on, send pairs."""


class Interrupted(BaseException):
    """A signal asked this process to end. Not an Exception, so that no clean-up code swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interruption:
    """Where a signal is noticed: at once by an Interrupted exception, or inside `deferred` by a flag.

    announcement: what to tell a person at once is being done; nothing if it is empty.
    """

    def __init__(self, announcement: str = "") -> None:
        self.requested: int | None = None
        self.announcement = announcement
        self._deferring = False
        self._raised = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler. Python calls it between two of its own instructions, so not inside a long computation."""
        self.requested = self.requested or number
        if not self._deferring and not self._raised:  # no second one disturbs what the first makes whole
            self.raise_if_requested()

    def watch(self, descriptor: int, numbers: list[int]) -> None:
        """Read the numbers of signals as they come, also while the main thread computes: say that one was heard; a
        second wish does not wait. Ends with the stream."""
        heard_at: float | None = None
        while received := os.read(descriptor, 1):
            number = received[0]
            if number not in numbers:
                continue
            if heard_at is not None:
                if time.monotonic() - heard_at > ONE_WISH:
                    die_at_once_by(number)
                continue
            heard_at = time.monotonic()
            self.requested = self.requested or number
            if self.announcement:
                with contextlib.suppress(OSError):
                    os.write(2, f"\n{signal.Signals(number).name}: {self.announcement} ...\n".encode())

    @contextlib.contextmanager
    def deferred(self, announcement: str) -> Iterator[None]:
        """Inside, a signal only sets `requested`; the code inside asks `raise_if_requested` where it may stop."""
        before, self.announcement = self.announcement, announcement
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
            self.announcement = before
        self.raise_if_requested()

    def raise_if_requested(self) -> None:
        """Raise Interrupted if a signal came."""
        if self.requested is not None:
            self._raised = True
            raise Interrupted(self.requested)


@contextlib.contextmanager
def handled(announcement: str = "") -> Iterator[Interruption]:
    """Handle SIGINT, SIGTERM and SIGHUP inside; afterwards the handlers are as before."""
    interruption = Interruption(announcement)
    # What is ignored stays ignored: nohup and background jobs of scripts count on it.
    wanted = [number for number in HANDLED if signal.getsignal(number) is not signal.SIG_IGN]
    listening, report_failures = os.pipe()
    os.set_blocking(report_failures, False)
    watcher = threading.Thread(
        target=interruption.watch, args=(listening, [*map(int, wanted)]), name="signals", daemon=True
    )
    watcher.start()
    told_before = signal.set_wakeup_fd(report_failures, warn_on_full_buffer=False)
    previous = {number: signal.signal(number, interruption.handle) for number in wanted}
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(told_before)
        os.close(report_failures)
        watcher.join()
        os.close(listening)


def die_by(number: int) -> None:
    """End this process by the signal itself, so that the parent sees how it died."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def die_at_once_by(number: int) -> None:
    """The same from any thread, whatever the main thread is at."""
    # signal.signal works in the main thread only, which may be inside a long computation.
    ctypes.CDLL(None).signal(ctypes.c_int(number), ctypes.c_void_p(signal.SIG_DFL))
    os.kill(os.getpid(), number)
