"""NVIDIA's driver, as its library pynvml shows it, without a GPU."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest


@dataclass
class FakeDriver:
    """In place of the module pynvml. as_bytes: as its older versions answer. broken: the name of a call that fails."""

    gpus: list[dict[str, Any]] = field(default_factory=list)
    as_bytes: bool = False
    broken: str = ""
    open: int = 0
    questions: int = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
        monkeypatch.setitem(sys.modules, "pynvml", self)
        return self

    def text(self, value: str) -> str | bytes:
        return value.encode() if self.as_bytes else value

    def called(self, name: str) -> None:
        self.questions += 1
        if name == self.broken:
            raise RuntimeError("Driver/library version mismatch")

    def nvmlInit(self) -> None:  # noqa: N802
        self.called("nvmlInit")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str | bytes:  # noqa: N802
        self.called("nvmlSystemGetDriverVersion")
        return self.text("999.12")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:  # noqa: N802
        return self.gpus[index]

    def nvmlDeviceGetUUID(self, gpu: dict[str, Any]) -> str | bytes:  # noqa: N802
        return self.text(gpu["uuid"])

    def nvmlDeviceGetName(self, gpu: dict[str, Any]) -> str | bytes:  # noqa: N802
        return self.text(gpu["name"])

    def nvmlDeviceGetMemoryInfo(self, gpu: dict[str, Any]) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=gpu["used"], total=gpu["total"])

    def nvmlDeviceGetUtilizationRates(self, gpu: dict[str, Any]) -> SimpleNamespace:  # noqa: N802
        self.called("nvmlDeviceGetUtilizationRates")
        return SimpleNamespace(gpu=gpu["busy"])


H100 = {"uuid": "GPU-1", "name": "NVIDIA H100", "used": 12_100_000_000, "total": 80_000_000_000, "busy": 93}
L4 = {"uuid": "GPU-2", "name": "NVIDIA L4", "used": 500_000_000, "total": 24_000_000_000, "busy": 0}
