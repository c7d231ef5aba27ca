"""Send the progress of a run to logging tools. A tool can neither stop the run nor slow it down."""

from __future__ import annotations

import importlib
import importlib.util
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from tlkit.errors import UnavailableError, first_line

Row = Mapping[str, float]
"""An epoch as in history.jsonl."""

CLOSE_TIMEOUT = 60.0
"""Seconds that a finished run waits for its tools."""

NOT_FIGURES = ("epoch", "step")
"""Numbers of a row that are positions and not values to plot."""


@dataclass(frozen=True)
class RunInfo:
    """The run that is logged.

    folder: run folder; a sink keeps its files in a subfolder with its own name. options: the hyper-parameters.
    """

    folder: str
    name: str
    options: Mapping[str, object]
    classes: Sequence[str]


@dataclass(frozen=True)
class RunSummary:
    """The result of a finished run. epoch: the last. figures: of the best epoch. images: PNG files by title."""

    epoch: int
    figures: Mapping[str, float]
    images: Mapping[str, bytes]


class Sink(Protocol):
    """A logging tool. All methods but `abandon` are called from one thread; an exception ends this sink only."""

    def open(self, info: RunInfo) -> int:
        """Start logging, or resume the log in the run folder. Returns the last epoch that is logged already."""
        ...

    def log(self, row: Row) -> None:
        """Log an epoch that is not logged yet."""
        ...

    def log_summary(self, summary: RunSummary) -> None: ...

    def close(self) -> None:
        """Write what is pending. The run has finished or was stopped."""
        ...

    def abandon(self) -> None:
        """Stop at once. Called from another thread when the sink takes too long."""
        ...


SINKS = {"tensorboard": "tlkit.monitoring.tensorboard_sink", "wandb": "tlkit.monitoring.wandb_sink"}
"""The modules by the name in --log NAME; the library that they need and the extra tlkit[NAME] have the same name.

Each has a function make_sink(notify) that returns a Sink. notify(text): prints a status line.
"""


def require_installed(names: Iterable[str]) -> None:
    """Raises UnavailableError for a sink whose library is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            problem = f"needs {name}, which is not installed"
            raise UnavailableError(f"--log {name}", problem, f"Install it with: pip install 'tlkit[{name}]'")


@dataclass
class Monitor:
    """All sinks of one run; without sinks it does nothing."""

    sinks: Sequence[SinkThread] = ()

    def log(self, rows: Iterable[Row]) -> None:
        """Log epochs, in order. Each sink skips epochs that it has logged already."""
        for row in rows:
            for sink in self.sinks:
                sink.calls.put(partial(SinkThread.log, sink, dict(row)))

    def log_summary(self, summary: RunSummary) -> None:
        """Log the result of the finished run."""
        for sink in self.sinks:
            sink.calls.put(partial(SinkThread.log_summary, sink, summary))

    def close(self, seconds: float = CLOSE_TIMEOUT) -> None:
        """Wait for pending writes, at most `seconds`. A second call does nothing."""
        deadline = time.monotonic() + seconds
        for sink in self.sinks:
            sink.calls.put(None)
        for sink in self.sinks:
            sink.wait(deadline)
        self.sinks = ()


def open_monitor(names: Iterable[str], info: RunInfo, notify: Callable[[str, str], None]) -> Monitor:
    """Start the sinks of these names. notify(label, text): prints a status line."""
    return Monitor([SinkThread(name, info, notify) for name in dict.fromkeys(names)])


@dataclass
class SinkThread:
    """A sink in its own thread, with a queue of calls, ended by None. After the sink's first error the thread ends."""

    name: str
    info: RunInfo
    notify: Callable[[str, str], None]
    calls: queue.SimpleQueue[Callable[[], None] | None] = field(default_factory=queue.SimpleQueue, init=False)
    sink: Sink | None = field(default=None, init=False)
    logged: float = field(default=0, init=False)
    abandoned: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.run, name=f"tlkit {self.name}", daemon=True)
        self.thread.start()

    def wait(self, deadline: float) -> None:
        """Wait for the thread until the deadline, then abandon the sink."""
        self.thread.join(max(0.0, deadline - time.monotonic()))
        if self.thread.is_alive():
            self.abandoned = True
            problem = f"{self.name} takes too long and was abandoned"
            self.notify("warning", f"{problem}; its log may be incomplete, history.jsonl is complete")
            if self.sink is not None:
                self.sink.abandon()

    def run(self) -> None:
        """Body of the thread."""
        try:
            make_sink = importlib.import_module(SINKS[self.name]).make_sink
            sink: Sink = make_sink(lambda text: self.notify(self.name, text))
            self.sink = sink
            self.logged = sink.open(self.info)
            while (call := self.calls.get()) is not None:
                call()
            sink.close()
        except Exception as error:
            if not self.abandoned:
                problem = f"{self.name} failed ({first_line(error)})"
                self.notify("warning", f"{problem} and logs no more; the run continues, history.jsonl is complete")

    def log(self, row: Row) -> None:
        """In the thread: log an epoch unless the sink has it."""
        assert self.sink is not None
        if row["epoch"] > self.logged:
            self.sink.log(row)
            self.logged = row["epoch"]

    def log_summary(self, summary: RunSummary) -> None:
        """In the thread: log the result."""
        assert self.sink is not None
        self.sink.log_summary(summary)


def scalars(row: Row) -> dict[str, float]:
    """The numbers of an epoch, renamed so that tools group them: train/loss, val/accuracy, learning_rate."""
    numbers = {name: v for name, v in row.items() if isinstance(v, (int, float)) and name not in NOT_FIGURES}
    return {re.sub(r"^(train|val|gpu)_", r"\1/", name): float(value) for name, value in numbers.items()}
