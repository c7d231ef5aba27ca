"""Signals that arrive where an exception would be turned into another one."""

from __future__ import annotations

import os
import signal

import pytest

from tlkit.interruption import Interrupted, handled, held_back


def test_a_signal_inside_is_raised_after_the_block() -> None:
    steps = []
    with pytest.raises(Interrupted), handled():
        try:
            with held_back():
                os.kill(os.getpid(), signal.SIGINT)
                steps.append("the import goes on")
        except ImportError:
            steps.append("never")
        steps.append("never")
    assert steps == ["the import goes on"]


def test_the_innermost_handler_holds_it_back() -> None:
    with handled() as outer:
        with pytest.raises(Interrupted), handled(), held_back():
            os.kill(os.getpid(), signal.SIGTERM)
        assert outer.requested is None


def test_inside_a_deferred_block_it_stays_deferred() -> None:
    steps = []
    with pytest.raises(Interrupted), handled() as signals, signals.deferred("finishing"):
        with held_back():
            os.kill(os.getpid(), signal.SIGINT)
        steps.append("still inside")
    assert steps == ["still inside"]


def test_without_a_handler_nothing_is_held_back() -> None:
    with pytest.raises(KeyboardInterrupt), held_back():
        os.kill(os.getpid(), signal.SIGINT)
