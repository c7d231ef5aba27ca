"""Run the trials in a process of their own: Ray ends the process that uses it, or waits, when its servers die."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

from tlkit import interruption
from tlkit.distributed.env import die_with_parent
from tlkit.errors import ResourceError, TlkitError, to_tlkit_error
from tlkit.interruption import Interrupted, Interruption
from tlkit.tuning import reaper

POLL_SECONDS = 0.1

SERVERS = ("gcs_server", "raylet")
"""The processes without which a Ray on this machine does nothing."""

Watch = Callable[[str], None]
"""Tells the process of the command to watch the servers with this marker in their environment; "" for none."""


def run_in_driver(function: Callable[[Interruption, Watch], None], signals: Interruption, hint: str) -> None:
    """Call a function in a forked process, the driver, which gets the signals of this process and dies with it.

    Raises what the function raises, and ResourceError with the hint if the driver or a process that it needs dies.
    Raises Interrupted.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    arguments = (function, sender, os.getpid())
    outcome: TlkitError | int | str | None = ""
    marker, servers = "", set[int]()
    with signals.deferred(""):  # the driver prints the message and stops the trials
        driver = multiprocessing.get_context("fork").Process(target=report_outcome, args=arguments)
        driver.start()
        sender.close()
        forwarded = False
        while isinstance(outcome, str):
            if receiver.poll(POLL_SECONDS):
                try:
                    outcome = receiver.recv()
                except EOFError:
                    outcome = lost_ray(hint)
                marker, servers = (outcome, set()) if isinstance(outcome, str) else ("", set())
            elif not driver.is_alive() and receiver.poll():
                continue  # it sent the outcome after the first look, and ended
            elif not driver.is_alive() or any(process_state(number)[1] in "ZX" for number in servers):
                driver.kill()
                outcome = lost_ray(hint)
            elif signals.requested is not None and not forwarded:
                os.kill(driver.ident or 0, signals.requested)
                forwarded = True
            elif marker and len(servers) < len(SERVERS):
                servers |= {one for one in reaper.processes_with_marker(marker) if process_state(one)[0] in SERVERS}
        driver.join()
    if outcome is not None:
        raise Interrupted(outcome) if isinstance(outcome, int) else outcome


def lost_ray(hint: str) -> ResourceError:
    """The error when the driver or one of Ray's servers is gone."""
    return ResourceError("Ray", "ended unexpectedly; one of its processes was killed, or crashed", hint)


def report_outcome(function: Callable[[Interruption, Watch], None], sender: Connection, parent: int) -> None:
    """In the driver: call the function and send None, its error or the number of the signal that ended it."""
    die_with_parent(parent)
    os.setpgid(0, 0)  # Ctrl-C reaches the parent only, which forwards it
    outcome: TlkitError | int | None = None
    try:
        with interruption.handled("stopping") as signals:
            function(signals, sender.send)
    except Interrupted as interrupted:
        outcome = interrupted.number
    except Exception as error:
        outcome = to_tlkit_error(error)
        outcome.add_note(traceback.format_exc())
    sender.send(outcome)


def process_state(number: int) -> tuple[str, str]:
    """Name and state of a process; the state is X if it does not exist."""
    try:
        with open(f"/proc/{number}/stat", encoding="utf-8", errors="replace") as file:
            before, _, after = file.read().rpartition(") ")
        return before.partition("(")[2], after[0]
    except (OSError, IndexError):
        return "", "X"
