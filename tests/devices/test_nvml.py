"""What the driver says of GPUs, and silence where it says nothing."""

from __future__ import annotations

import builtins
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.nvidia import H100, L4, FakeDriver
from tlkit import terminal
from tlkit.devices import nvml
from tlkit.devices.nvml import Gpu, GpuNote, driver_version, read_gpus


@pytest.mark.parametrize("as_bytes", [False, True])
def test_all_gpus_are_read(as_bytes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver([H100, L4], as_bytes).install(monkeypatch)
    assert read_gpus() == [Gpu(**H100), Gpu(**L4)]
    assert driver_version() == "999.12"
    assert driver.open == 0


@pytest.mark.parametrize("broken", ["nvmlInit", "nvmlDeviceGetUtilizationRates", "nvmlSystemGetDriverVersion"])
def test_a_driver_that_fails_says_nothing(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver([H100], broken=broken).install(monkeypatch)
    assert (read_gpus() == []) == (broken != "nvmlSystemGetDriverVersion")
    assert (driver_version() is None) == (broken != "nvmlDeviceGetUtilizationRates")
    assert driver.open == 0


def test_without_the_library_there_is_nothing_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *about: Any, **named: Any) -> Any:
        if name == "pynvml":
            raise ModuleNotFoundError(name)
        return real(name, *about, **named)

    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    assert read_gpus() == [] and driver_version() is None and GpuNote(["GPU-1"])() == ""


def test_the_note_is_asked_for_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver([H100, L4]).install(monkeypatch)
    clock = [100.0]
    monkeypatch.setattr(nvml.time, "monotonic", lambda: clock[0])
    note = GpuNote(["GPU-1"])
    assert note() == "12.1 GB of 80.0 GB, 93 %"
    asked = driver.questions
    clock[0] += 0.9
    assert note() and driver.questions == asked
    clock[0] += 0.2
    driver.gpus = [{**H100, "busy": 7}]
    assert note() == "12.1 GB of 80.0 GB, 7 %"


def test_a_driver_that_says_nothing_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver([L4]).install(monkeypatch)
    clock = [100.0]
    monkeypatch.setattr(nvml.time, "monotonic", lambda: clock[0])
    note = GpuNote(["GPU-1"])
    assert note() == ""
    asked = driver.questions
    clock[0] += 100
    assert note() == "" and driver.questions == asked


def test_bars_show_the_note_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    calls: list[int] = []
    monkeypatch.setattr(terminal, "beside_bars", lambda: calls.append(1) or "12.1 GB of 80.0 GB, 93 %")
    assert list(terminal.progress(range(3), "training", 3)) == [0, 1, 2]
    assert not calls
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)

    def slowly() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.15)  # a bar is drawn ten times in a second at most
            yield number

    assert list(terminal.progress(slowly(), "training", 3)) == [0, 1, 2]
    assert len(calls) == 3 and "93 %" in capsys.readouterr().err
