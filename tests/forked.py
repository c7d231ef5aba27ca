"""Runs of tlkit as processes of their own that start in milliseconds: forked from one that has torch loaded.

A test starts the warm process once, and each run is a child of it: a session of its own, its own streams, and, before
the command, a hook from tests/hooks.py that may patch anything, because the process runs nothing else.

    with warm_process() as warm:
        process = warm.start(["finetune", ...], hook="interrupt_at_step", step=7, number=15)
        assert process.wait() == -15
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


@dataclass
class Forked:
    """A run that was started. out, err: files that its streams go to."""

    pid: int
    connection: socket.socket
    out: Path
    err: Path
    status: int | None = field(default=None, init=False)

    def wait(self, timeout: float = 120) -> int:
        """The exit status, as subprocess has it: negative for a signal. Raises TimeoutError."""
        if self.status is None:
            self.connection.settimeout(timeout)
            received = b""
            while not received.endswith(b"\n"):
                part = self.connection.recv(64)
                assert part, "the warm process is gone"
                received += part
            self.status = int(received)
            self.connection.close()
        return self.status

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        with contextlib.suppress(BlockingIOError, TimeoutError):
            return self.wait(0)
        return None

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


@dataclass
class Warm:
    """The process that runs are forked from. folder: of its socket and of the streams of runs."""

    process: subprocess.Popen[bytes]
    folder: Path
    started: list[Forked] = field(default_factory=list)

    def start(
        self,
        arguments: Sequence[object],
        *,
        hook: str = "",
        environment: Mapping[str, str] | None = None,
        threads: int = 1,
        **about: Any,
    ) -> Forked:
        """Start `tlkit ARGUMENTS`. hook: a function of tests/hooks.py, called first with `about`."""
        connection = socket.socket(socket.AF_UNIX)
        out, err = (self.folder / f"{connection.fileno()}-{time.monotonic_ns()}.{name}" for name in ("out", "err"))
        out.touch()
        err.touch()
        request = {
            "arguments": [*map(str, arguments)],
            "hook": hook,
            "about": about,
            "environment": dict(environment or {}),
            "threads": threads,
            "streams": [str(out), str(err)],
        }
        connection.connect(str(self.folder / "socket"))
        connection.sendall(json.dumps(request).encode() + b"\n")
        pid = int(connection.recv(16, socket.MSG_WAITALL))
        self.started.append(Forked(pid, connection, out, err))
        return self.started[-1]

    def run(self, arguments: Sequence[object], **how: Any) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of a run."""
        process = self.start(arguments, **how)
        status = process.wait()
        return status, process.out.read_text(), process.err.read_text()


@contextlib.contextmanager
def warm_process() -> Iterator[Warm]:
    """Start the process that runs are forked from, and end it afterwards."""
    with tempfile.TemporaryDirectory(prefix="tlkit-warm-") as folder:
        # Threads that wait by spinning would take the cores from others that test at the same time.
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
        process = subprocess.Popen([sys.executable, "-m", "tests.forked", folder], cwd=ROOT, env=environment)
        try:
            while not (Path(folder) / "ready").exists():
                assert process.poll() is None, "the warm process did not start"
                time.sleep(0.02)
            warm = Warm(process, Path(folder))
            yield warm
            for started in warm.started:
                started.connection.close()
        finally:
            process.kill()
            process.wait()


def serve(folder: str) -> None:
    """Load everything, compute nothing (a thread of torch's would not survive a fork), and fork for each request."""
    import timm
    import torchvision

    from tests import hooks
    from tlkit import cli
    from tlkit.commands import finetune
    from tlkit.model.backbones import find_backbone
    from tlkit.runs import resume, train

    assert timm and torchvision and hooks and cli and resume and finetune and train
    find_backbone("timm/test_resnet")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.join(folder, "socket"))
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that only wait for a run are nobody's to wait for
    Path(folder, "ready").touch()
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            end_with(lambda connection=connection: tend(connection))
        connection.close()


def end_with(work: Callable[[], int]) -> None:
    """Do the last thing in a forked process."""
    status = 70
    try:
        status = work()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def tend(connection: socket.socket) -> int:
    """Start the run that was asked for, tell its number, wait for it, and tell how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    received = b""
    while not received.endswith(b"\n"):
        received += connection.recv(1 << 16)
    request = json.loads(received)
    pid = os.fork()
    if pid == 0:
        connection.close()
        end_with(lambda: become(request))
    connection.sendall(f"{pid:16d}".encode())
    _, status = os.waitpid(pid, 0)
    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    return 0


def become(request: Mapping[str, Any]) -> int:
    """Be the process of one run, as the command line would be."""
    os.setsid()
    for number, path in zip((1, 2), request["streams"], strict=True):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command handles it; Python's own would show a traceback
    import torch

    from tests import hooks
    from tlkit.cli import run

    torch.set_num_threads(request["threads"])
    if request["hook"]:
        getattr(hooks, request["hook"])(**request["about"])
    return run(request["arguments"])


if __name__ == "__main__":
    serve(sys.argv[1])
