"""Weights & Biases, through a process of its own: it may hang, ask, print and crash there."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tlkit.monitoring.monitor import About, Row, RunSummary, scalars

PROGRAM = os.path.join(os.path.dirname(__file__), "wandb_process.py")


class WandbError(Exception):
    """What the process says went wrong."""


class WandbSink:
    """A W&B run with the run's own id, which goes on where it stopped."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.process: subprocess.Popen[str] | None = None

    def open(self, about: About) -> int:
        """Start the process, and the W&B run in it."""
        folder = os.path.join(about.folder, "wandb")
        os.makedirs(folder, exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-P", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="ascii",
            start_new_session=True,  # no terminal to ask on, and no Ctrl-C from it
        )
        options = {name: value for name, value in about.options.items() if value is not None}
        self.send(
            folder=about.folder, id=kept_id(folder), name=about.name, config={**options, "classes": list(about.classes)}
        )
        begun = self.answer()
        self.sync = begun["sync"]
        if not begun["why_offline"]:
            self.say(str(begun["url"]))
        elif self.sync:
            self.say(f"offline ({begun['why_offline']}); upload it by: {self.sync}")
        else:
            self.say(f"keeps nothing: {begun['why_offline']}")
        return int(begun["logged"])

    def log(self, row: Row) -> None:
        """An epoch's numbers."""
        self.send(step=row["epoch"], values=scalars(row))

    def conclude(self, conclusion: RunSummary) -> None:
        """The pictures, and the figures of the best epoch."""
        pictures = {title: base64.b64encode(content).decode() for title, content in conclusion.pictures.items()}
        self.send(step=conclusion.epoch, pictures=pictures, summary=dict(conclusion.figures))

    def close(self) -> None:
        """Let it upload the rest."""
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.close()
        if not self.answer()["uploaded"]:
            self.say(f"not everything is uploaded; do it by: {self.sync}")
        self.process.wait()

    def abandon(self) -> None:
        """End it, and the service that it started."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def send(self, **order: Any) -> None:
        """An order, as a line."""
        assert self.process is not None and self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        except OSError:
            self.answer()  # why it has gone

    def answer(self) -> dict[str, Any]:
        """The next line that it says. Raises WandbError if that is a problem, or if it has gone."""
        assert self.process is not None and self.process.stdout is not None
        line = self.process.stdout.readline()
        said: dict[str, Any] = json.loads(line) if line else {"problem": "its process has ended"}
        if "problem" in said:
            self.abandon()
            raise WandbError(said["problem"])
        return said


def make_sink(say: Callable[[str], None]) -> WandbSink:
    """What monitoring.SINKS names."""
    return WandbSink(say)


def kept_id(folder: str) -> str:
    """The id of the W&B run, drawn when it begins."""
    path = os.path.join(folder, "id")
    with suppress(FileExistsError), open(path, "x") as file:
        file.write(secrets.token_hex(6))
    with open(path) as file:
        return file.read().strip()
