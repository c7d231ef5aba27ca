"""Each logging tool gets every epoch once; a failing tool harms neither the run nor another tool."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tlkit.commands.resume import resume
from tlkit.errors import UnavailableError
from tlkit.monitoring import monitor as monitor_module
from tlkit.monitoring.monitor import SINKS, RunInfo, RunSummary, open_monitor, require_installed, scalars
from tlkit.options import ResumeOptions
from tlkit.options.monitoring import LOGS

ROWS = [{"epoch": epoch, "step": 10 * epoch, "train_loss": 1 / epoch, "seconds": 0.1} for epoch in range(1, 6)]
END = RunSummary(5, {"val_accuracy": 1.0}, {"confusion matrix": b"png"})
INFO = RunInfo("run", "run", {}, ("a", "b"))


@dataclass
class FakeSink:
    """Records its calls. logged: epochs it has already. fails_at, hangs_at: the epoch at which it fails or hangs."""

    logged: int = 0
    fails_at: int | None = None
    hangs_at: int | None = None
    calls: list[Any] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    abandoned: threading.Event = field(default_factory=threading.Event)

    def open(self, info: RunInfo) -> int:
        self.act(0)
        return self.logged

    def log(self, row: Any) -> None:
        self.act(row["epoch"])
        self.calls.append(row["epoch"])

    def log_summary(self, summary: RunSummary) -> None:
        self.calls.append("end")

    def close(self) -> None:
        self.calls.append("closed")

    def abandon(self) -> None:
        self.abandoned.set()

    def act(self, epoch: int) -> None:
        self.threads.add(threading.get_ident())
        if epoch == self.hangs_at:
            self.abandoned.wait()
            raise RuntimeError("abandoned")
        if epoch == self.fails_at:
            raise OSError(28, "No space left on device")


def use(monkeypatch: pytest.MonkeyPatch, sinks: dict[str, FakeSink]) -> None:
    """Let --log NAME open these sinks."""
    monkeypatch.setattr(monitor_module, "SINKS", {name: f"sinks.{name}" for name in sinks})
    for name, sink in sinks.items():
        module: Any = ModuleType(f"sinks.{name}")
        module.make_sink = lambda notify, sink=sink: sink
        monkeypatch.setitem(sys.modules, module.__name__, module)


def log_run(monkeypatch: pytest.MonkeyPatch, *sinks: FakeSink, patience: float = 60) -> list[tuple[str, str]]:
    """Log a whole run to sinks; returns the status lines."""
    use(monkeypatch, {str(number): sink for number, sink in enumerate(sinks)})
    lines: list[tuple[str, str]] = []
    monitor = open_monitor(monitor_module.SINKS, INFO, lambda label, text: lines.append((label, text)))
    monitor.log(ROWS[:2])
    for row in ROWS[2:]:
        monitor.log([row])
    monitor.log_summary(END)
    monitor.close(patience)
    return lines


@pytest.mark.parametrize("logged", [0, 2, 4, 5, 9])
def test_a_logged_epoch_is_not_logged_again(logged: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = FakeSink(logged)
    assert log_run(monkeypatch, sink) == []
    assert sink.calls == [*range(logged + 1, 6), "end", "closed"]
    assert threading.get_ident() not in sink.threads


@pytest.mark.parametrize("epoch", [0, 3])
def test_a_failing_sink_is_dropped_with_one_warning(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    failing, other = FakeSink(fails_at=epoch), FakeSink()
    lines = log_run(monkeypatch, failing, other)
    assert [label for label, _ in lines] == ["warning"]
    assert "0 failed ([Errno 28] No space left on device)" in lines[0][1]
    assert failing.calls == list(range(1, epoch))
    assert other.calls == [1, 2, 3, 4, 5, "end", "closed"]


@pytest.mark.parametrize("epoch", [0, 3])
def test_a_sink_that_hangs_is_abandoned(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging, other = FakeSink(hangs_at=epoch), FakeSink()
    lines = log_run(monkeypatch, hanging, other, patience=0.2)
    assert len(lines) == 1 and "takes too long" in lines[0][1]
    assert hanging.abandoned.is_set()
    assert other.calls == [1, 2, 3, 4, 5, "end", "closed"]


def test_without_sinks_a_monitor_does_nothing() -> None:
    before = threading.active_count()
    monitor = open_monitor([], INFO, print)
    monitor.log(ROWS)
    monitor.log_summary(END)
    monitor.close()
    assert threading.active_count() == before


def test_a_sink_named_twice_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = FakeSink()
    use(monkeypatch, {"it": sink})
    monitor = open_monitor(["it", "it"], INFO, print)
    monitor.log(ROWS)
    monitor.close()
    assert sink.calls == [1, 2, 3, 4, 5, "closed"]


def test_options_and_sinks_agree_and_every_sink_is_documented() -> None:
    assert tuple(SINKS) == LOGS
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    assert all(f"--log {name}" in page and f"tlkit[{name}]" in page for name in SINKS)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    require_installed(SINKS)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in SINKS:
        with pytest.raises(UnavailableError, match=f"--log {name}: needs {name}") as raised:
            require_installed([name])
        assert raised.value.hint == f"Install it with: pip install 'tlkit[{name}]'"


def test_a_run_whose_tool_is_missing_is_refused_or_resumed_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "options.json").write_text(json.dumps({"given": {}, "resolved": {"log": ["wandb"]}}))
    resumed: list[ResumeOptions] = []
    monkeypatch.setattr("tlkit.commands.resume.reopen", lambda run, options, typed: resumed.append(options) or 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="--log wandb: needs wandb"):
        resume(ResumeOptions(checkpoint=str(tmp_path)))
    assert resume(ResumeOptions(checkpoint=str(tmp_path), log=["none"])) == 0
    assert [options.sinks() for options in resumed] == [[]]


def test_figures_are_grouped_as_tools_show_them() -> None:
    row = {"epoch": 3, "step": 30, "train_loss": 0.5, "val_macro_f1": 1, "gpu_use": 90, "learning_rate": 0.1, "x": "no"}
    assert scalars(row) == {"train/loss": 0.5, "val/macro_f1": 1.0, "gpu/use": 90.0, "learning_rate": 0.1}
