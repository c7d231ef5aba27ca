"""Log to Weights & Biases through a separate process, because wandb may hang, prompt, print or crash."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from tlkit.errors import DataError
from tlkit.files.inputs import open_input
from tlkit.monitoring.monitor import Row, RunInfo, RunSummary, scalars

PROGRAM = os.path.join(os.path.dirname(__file__), "wandb_process.py")


class WandbSink:
    """A W&B run. Its id is kept in the run folder, so a resumed run continues it."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self.notify = notify
        self.process: subprocess.Popen[str] | None = None

    def open(self, info: RunInfo) -> int:
        """Start the process and the W&B run in it. Returns the last epoch that the server has."""
        folder = os.path.join(info.folder, "wandb")
        os.makedirs(folder, exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-P", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="ascii",
            start_new_session=True,  # no terminal for prompts, and no Ctrl-C from it
        )
        options = {name: value for name, value in info.options.items() if value is not None}
        config = {**options, "classes": list(info.classes)}
        self.send({"folder": info.folder, "id": run_id(folder), "name": info.name, "config": config})
        reply = self.receive()
        self.sync = reply["sync"]
        if not reply["why_offline"]:
            self.notify(str(reply["url"]))
        elif self.sync:
            self.notify(f"offline ({reply['why_offline']}); upload it with: {self.sync}")
        else:
            self.notify(f"logs nothing: {reply['why_offline']}")
        return int(reply["logged"])

    def log(self, row: Row) -> None:
        """Log the numbers of an epoch."""
        self.send({"step": row["epoch"], "values": scalars(row)})

    def log_summary(self, summary: RunSummary) -> None:
        """Log the images and the figures of the best epoch."""
        images = {title: base64.b64encode(png).decode() for title, png in summary.images.items()}
        self.send({"step": summary.epoch, "images": images, "summary": dict(summary.figures)})

    def close(self) -> None:
        """Wait until everything is uploaded."""
        assert self.process is not None and self.process.stdin is not None
        self.send(None)
        if not self.receive()["uploaded"]:
            self.notify(f"the upload is incomplete; finish it with: {self.sync}")
        self.process.wait()
        self.process.stdin.close()

    def abandon(self) -> None:
        """Kill the process and the service that it started."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def send(self, request: Mapping[str, object] | None) -> None:
        """Send a request, or None to end the run. Raises RuntimeError if the process has ended."""
        assert self.process is not None and self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError:
            self.receive()  # raises the error that ended the process

    def receive(self) -> dict[str, Any]:
        """The next reply. Raises RuntimeError for a reported problem, or if the process has ended."""
        assert self.process is not None and self.process.stdout is not None
        line = self.process.stdout.readline()
        reply: dict[str, Any] = json.loads(line) if line else {"problem": "its process has ended"}
        if "problem" in reply:
            self.abandon()
            raise RuntimeError(reply["problem"])
        return reply


def make_sink(notify: Callable[[str], None]) -> WandbSink:
    """Entry point for monitor.SINKS."""
    return WandbSink(notify)


def run_id(folder: str) -> str:
    """The id of the W&B run, read from its folder or created there."""
    path = os.path.join(folder, "id")
    with suppress(FileExistsError), open(path, "x") as file:
        file.write(secrets.token_hex(6))
    with open_input(path) as file:
        found = file.read(100).strip()
    if not re.fullmatch(rb"[\w-]{1,64}", found):  # it becomes a part of paths
        raise DataError(
            path, "is not the id of a W&B run", f"To start a new W&B run, delete it: rm {shlex.quote(path)}"
        )
    return found.decode()
