"""What watches a run hears every epoch once, and whatever happens to it is its own affair."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tlkit.commands.resume import resume
from tlkit.errors import UnavailableError
from tlkit.monitoring import monitor as monitor_module
from tlkit.monitoring.monitor import SINKS, About, RunSummary, open_monitor, require_installed, scalars
from tlkit.options import ResumeOptions
from tlkit.options.monitoring import LOGS

ROWS = [{"epoch": epoch, "step": 10 * epoch, "train_loss": 1 / epoch, "seconds": 0.1} for epoch in range(1, 6)]
END = RunSummary(5, {"val_accuracy": 1.0}, {"confusion matrix": b"png"})


@dataclass
class FakeSink:
    """Writes down what it is told. logged: what it has from before. at: where it fails, or hangs until it is let go."""

    logged: int = 0
    fails_at: int | None = None
    hangs_at: int | None = None
    told: list[Any] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    freed: threading.Event = field(default_factory=threading.Event)

    def open(self, about: About) -> int:
        self.act(0)
        return self.logged

    def log(self, row: Any) -> None:
        self.act(row["epoch"])
        self.told.append(row["epoch"])

    def conclude(self, conclusion: RunSummary) -> None:
        self.told.append("end")

    def close(self) -> None:
        self.told.append("closed")

    def abandon(self) -> None:
        self.freed.set()

    def act(self, place: int) -> None:
        self.threads.add(threading.get_ident())
        if place == self.hangs_at:
            self.freed.wait()
            raise RuntimeError("let go")
        if place == self.fails_at:
            raise OSError(28, "No space left on device")


@dataclass(frozen=True)
class FakeKind:
    sink: FakeSink
    needs: str = "math"

    def make(self, say: Callable[[str], None]) -> FakeSink:
        return self.sink


def watch(monkeypatch: pytest.MonkeyPatch, *sinks: FakeSink, patience: float = 60) -> list[tuple[str, str]]:
    """Tell a whole run to sinks; returns what people were told."""
    monkeypatch.setattr(monitor_module, "SINKS", {str(place): FakeKind(sink) for place, sink in enumerate(sinks)})
    told: list[tuple[str, str]] = []
    about = About("run", "run", {}, ("a", "b"), "accuracy")
    monitor = open_monitor(monitor_module.SINKS, about, lambda label, text: told.append((label, text)))
    monitor.log(ROWS[:2])
    for row in ROWS[2:]:
        monitor.log([row])
    monitor.conclude(END)
    monitor.close(patience)
    return told


@pytest.mark.parametrize("logged", [0, 2, 4, 5, 9])
def test_what_is_logged_already_is_not_logged_again(logged: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = FakeSink(logged)
    assert watch(monkeypatch, sink) == []
    assert sink.told == [*range(logged + 1, 6), "end", "closed"]
    assert threading.get_ident() not in sink.threads


@pytest.mark.parametrize("place", [0, 3])
def test_a_sink_that_fails_is_dropped_with_one_warning_and_no_other_with_it(
    place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing, other = FakeSink(fails_at=place), FakeSink()
    told = watch(monkeypatch, failing, other)
    assert [label for label, _ in told] == ["warning"]
    assert "0 failed ([Errno 28] No space left on device)" in told[0][1]
    assert failing.told == list(range(1, place))
    assert other.told == [1, 2, 3, 4, 5, "end", "closed"]


@pytest.mark.parametrize("place", [0, 3])
def test_a_sink_that_hangs_holds_nobody(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging, other = FakeSink(hangs_at=place), FakeSink()
    told = watch(monkeypatch, hanging, other, patience=0.2)
    assert len(told) == 1 and "takes too long" in told[0][1]
    assert hanging.freed.is_set()
    assert other.told == [1, 2, 3, 4, 5, "end", "closed"]


def test_without_sinks_a_monitor_does_nothing() -> None:
    before = threading.active_count()
    monitor = open_monitor([], About("run", "run", {}, (), "accuracy"), print)
    monitor.log(ROWS)
    monitor.conclude(END)
    monitor.close()
    assert threading.active_count() == before


def test_a_sink_that_is_asked_for_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = FakeSink()
    monkeypatch.setattr(monitor_module, "SINKS", {"it": FakeKind(sink)})
    monitor = open_monitor(["it", "it"], About("run", "run", {}, (), "accuracy"), print)
    monitor.log(ROWS)
    monitor.close()
    assert sink.told == [1, 2, 3, 4, 5, "closed"]


def test_options_and_sinks_agree_and_every_sink_is_documented() -> None:
    assert tuple(SINKS) == LOGS
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    assert all(f"--log {name}" in page and f"tlkit[{name}]" in page for name in SINKS)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    require_installed(SINKS)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in SINKS:
        with pytest.raises(UnavailableError, match=rf"--log {name}: needs {name}.*pip install 'tlkit\[{name}\]'"):
            require_installed([name])


def test_a_run_whose_tool_is_missing_is_refused_at_once_or_goes_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "options.json").write_text(json.dumps({"given": {}, "resolved": {"log": ["wandb"]}}))
    gone_on: list[ResumeOptions] = []
    monkeypatch.setattr("tlkit.commands.resume.go_on", lambda run, options, typed: gone_on.append(options) or 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="--log wandb: needs wandb"):
        resume(ResumeOptions(checkpoint=str(tmp_path)))
    assert resume(ResumeOptions(checkpoint=str(tmp_path), log=["none"])) == 0
    assert [options.sinks() for options in gone_on] == [[]]


def test_figures_are_grouped_as_tools_show_them() -> None:
    row = {"epoch": 3, "step": 30, "train_loss": 0.5, "val_macro_f1": 1, "gpu_use": 90, "learning_rate": 0.1, "x": "no"}
    assert scalars(row) == {"train/loss": 0.5, "val/macro_f1": 1.0, "gpu/use": 90.0, "learning_rate": 0.1}
