"""Signals: finish what must be whole, then end the way the signal asks."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked this process to end. Not an Exception, so that no clean-up code swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interruption:
    """Where a signal is noticed: at once by an Interrupted exception, or inside `deferred` by a flag."""

    def __init__(self) -> None:
        self.requested: int | None = None
        self._deferring = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler. A second signal does not wait."""
        if self.requested is not None:
            die_by(number)
        self.requested = number
        if not self._deferring:
            raise Interrupted(number)
        with contextlib.suppress(OSError):
            print(f"\n{signal.Signals(number).name}: saving a checkpoint ...", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal only sets `requested`; the code inside asks `raise_if_requested` where it may stop."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def raise_if_requested(self) -> None:
        """Raise Interrupted if a signal came."""
        if self.requested is not None:
            raise Interrupted(self.requested)


@contextlib.contextmanager
def handled() -> Iterator[Interruption]:
    """Handle SIGINT, SIGTERM and SIGHUP inside; afterwards the handlers are as before."""
    interruption = Interruption()
    # What is ignored stays ignored: nohup and background jobs of scripts count on it.
    wanted = [number for number in HANDLED if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, interruption.handle) for number in wanted}
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def die_by(number: int) -> None:
    """End this process by the signal itself, so that the parent sees how it died."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
