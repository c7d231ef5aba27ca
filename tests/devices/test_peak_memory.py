"""The most memory of an epoch, and of a run, on each of its GPUs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tlkit.devices.memory import PeakMemory
from tlkit.devices.select import Devices
from tlkit.runs.train_loop import measure_epoch

FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch) -> dict[torch.device, int]:
    """What torch counts on two GPUs that are not there."""
    counted = {FIRST: 0, SECOND: 0}
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", counted.__getitem__)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: counted.update({device: 1_000}))
    return counted


def test_the_most_of_a_run_is_that_of_its_hungriest_epoch_on_each_gpu(
    peaks: dict[torch.device, int], capfd: pytest.CaptureFixture[str]
) -> None:
    memory = PeakMemory(Devices((FIRST, SECOND, FIRST), "model", ()))
    dataset: Any = SimpleNamespace(images=[None] * 4)
    epochs = [(5_000_000, 7_000_000), (9_000_000, 2_000_000), (4_000_000, 3_000_000)]
    for first, second in epochs:
        peaks.update({FIRST: first, SECOND: second})
        assert measure_epoch(dataset, 2.0, FIRST, memory)["gpu_memory"] == first
        assert peaks == {FIRST: 1_000, SECOND: 1_000}, "the next epoch counts anew"
    memory.say()
    assert capfd.readouterr().err == "memory    at most cuda:0 9.0 MB, cuda:1 7.0 MB\n"


def test_of_a_processor_nothing_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    memory = PeakMemory(Devices((torch.device("cpu"),), "none", ()))
    memory.say()
    assert memory.since_asked() == {} and capfd.readouterr().err == ""
