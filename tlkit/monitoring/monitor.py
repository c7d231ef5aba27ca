"""Monitor: a run told, as it goes, to the tools that people watch runs in. No tool can stop or slow the run."""

from __future__ import annotations

import importlib
import importlib.util
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tlkit.errors import UnavailableError, first_line

Row = Mapping[str, Any]
"""An epoch, as history.jsonl has it."""


CLOSE_TIMEOUT = 60.0
"""How long a run that is done waits for what watches it."""


@dataclass(frozen=True)
class About:
    """The run that is watched. folder: of the run; each sink keeps its files in one inside, of its own name.

    options: its hyper-parameters. metric: decides which epoch is best.
    """

    folder: str
    name: str
    options: Mapping[str, Any]
    classes: Sequence[str]
    metric: str


@dataclass(frozen=True)
class RunSummary:
    """What a finished run ends with. epoch: the last. pictures: PNG files by title. figures: of the best epoch."""

    epoch: int
    figures: Mapping[str, float]
    pictures: Mapping[str, bytes]


class Sink(Protocol):
    """A tool. It is called from one thread of its own, and whatever it raises ends it alone."""

    def open(self, about: About) -> int:
        """Begin, or go on with what the run's folder holds; returns the last epoch that is logged already."""
        ...

    def log(self, row: Row) -> None:
        """An epoch that is not logged yet."""
        ...

    def conclude(self, conclusion: RunSummary) -> None: ...

    def close(self) -> None:
        """Nothing more comes, whether the run is done or was stopped."""
        ...

    def abandon(self) -> None:
        """Called from outside when `close`, or what it waits for, takes too long: let go at once."""
        ...


@dataclass(frozen=True)
class Kind:
    """Where a sink is, and what it needs. say: what it calls when it has something to tell people."""

    module: str
    needs: str

    def make(self, say: Callable[[str], None]) -> Sink:
        sink: Sink = importlib.import_module(self.module).make_sink(say)
        return sink


SINKS = {
    "tensorboard": Kind("tlkit.monitoring.tensorboard_sink", "tensorboard"),
    "wandb": Kind("tlkit.monitoring.wandb_sink", "wandb"),
}
"""By the name in --log NAME, which is also that of the extra in tlkit[NAME]."""


def require_installed(names: Iterable[str]) -> None:
    """Raises UnavailableError for a sink whose library is not here."""
    for name in names:
        if importlib.util.find_spec(SINKS[name].needs) is None:
            needs = SINKS[name].needs
            raise UnavailableError(
                f"--log {name}", f"needs {needs}, which is not installed; get it by: pip install 'tlkit[{name}]'"
            )


@dataclass
class Monitor:
    """All that watches one run; without watchers it does nothing."""

    watchers: Sequence[SinkThread] = ()

    def log(self, rows: Iterable[Row]) -> None:
        """Epochs in order; those that a sink has already, it is not told again."""
        for row in rows:
            self.tell(SinkThread.log, dict(row))

    def conclude(self, conclusion: RunSummary) -> None:
        """The run is done."""
        self.tell(SinkThread.conclude, conclusion)

    def tell(self, what: Callable[[SinkThread, Any], None], value: Any) -> None:
        for watcher in self.watchers:
            watcher.tell(what, value)

    def close(self, seconds: float = CLOSE_TIMEOUT) -> None:
        """Wait for what is on its way, so long at most. What was closed is closed."""
        deadline = time.monotonic() + seconds
        for watcher in self.watchers:
            watcher.finish()
        for watcher in self.watchers:
            watcher.wait(deadline)
        self.watchers = ()


def open_monitor(names: Iterable[str], about: About, say: Callable[[str, str], None]) -> Monitor:
    """What --log asks for. say(label, text): how people are told."""
    return Monitor([SinkThread(name, about, say) for name in dict.fromkeys(names)])


@dataclass
class SinkThread:
    """A sink in a thread, and what it is still to be told. After its first error it is told nothing more."""

    name: str
    about: About
    say: Callable[[str, str], None]
    waiting: queue.SimpleQueue[Callable[[], None] | None] = field(default_factory=queue.SimpleQueue, init=False)
    sink: Sink | None = field(default=None, init=False)
    logged: int = field(default=0, init=False)
    abandoned: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.run, name=f"tlkit {self.name}", daemon=True)
        self.thread.start()

    def tell(self, what: Callable[[SinkThread, Any], None], value: Any) -> None:
        """Do something in the thread, later."""
        if self.thread.is_alive():
            self.waiting.put(lambda: what(self, value))

    def finish(self) -> None:
        """Nothing more comes."""
        self.waiting.put(None)

    def wait(self, deadline: float) -> None:
        """Until the sink is done, or time is up."""
        self.thread.join(max(0.0, deadline - time.monotonic()))
        if self.thread.is_alive():
            self.abandoned = True
            self.say("warning", f"{self.name} takes too long and is left alone; history.jsonl has all of it")
            if self.sink is not None:
                self.sink.abandon()

    def run(self) -> None:
        """The thread."""
        try:
            self.sink = SINKS[self.name].make(lambda text: self.say(self.name, text))
            self.logged = self.sink.open(self.about)
            while (order := self.waiting.get()) is not None:
                order()
            self.sink.close()
        except Exception as error:
            if not self.abandoned:
                problem = f"{self.name} failed ({first_line(error)})"
                self.say("warning", f"{problem} and logs no more; the run goes on, and history.jsonl has all of it")

    def log(self, row: Row) -> None:
        """In the thread: an epoch, unless the sink has it."""
        assert self.sink is not None
        if row["epoch"] > self.logged:
            self.sink.log(row)
            self.logged = row["epoch"]

    def conclude(self, conclusion: RunSummary) -> None:
        """In the thread: the end."""
        assert self.sink is not None
        self.sink.conclude(conclusion)


def scalars(row: Row) -> dict[str, float]:
    """The numbers of an epoch by the names that tools group: train/loss, val/accuracy, learning_rate."""
    numbers = {name: value for name, value in row.items() if isinstance(value, (int, float)) and name not in PLACES}
    return {re.sub(r"^(train|val|gpu)_", r"\1/", name): float(value) for name, value in numbers.items()}


PLACES = ("epoch", "step")
"""Where a row stands, which is no figure of it."""
