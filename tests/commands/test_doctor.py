"""doctor says which libraries are missing, and which are too old to be used."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
import torch

from tests.nvidia import H100, L4, FakeDriver
from tlkit.commands import doctor


def test_libraries_that_are_missing_or_refused_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package in ("onnxruntime", "timm"):
            raise PackageNotFoundError(package)
        return {"torch": "2.9.1", "onnx": "1.20.0"}.get(package, "99")

    monkeypatch.setattr(doctor, "version", version)
    found = dict(doctor.versions())
    assert found["torch"] == "2.9.1: older than 2.10, refused"
    assert found["onnx"] == "1.20.0: older than 1.21, refused"
    assert found["timm"] == "missing: reinstall tlkit"
    assert found["onnxruntime"] == "missing: pip install 'tlkit[onnx]'"
    assert found["pillow"] == found["onnxscript"] == "99"


def test_all_devices_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeDriver([H100, L4]).install(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (67_900_000_000, 80_000_000_000))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="1"))
    found = dict(doctor.devices())
    assert found["driver"].startswith("NVIDIA 999.12; torch was built for ")
    assert found["cuda:0"] == "NVIDIA H100, 12.1 GB of 80.0 GB used, 67.9 GB free, 93 % busy"
    assert found["gpu"] == "NVIDIA L4, 500.0 MB of 24.0 GB used, 23.5 GB free, 0 % busy; not available to this process"
    FakeDriver(broken="nvmlInit").install(monkeypatch)
    found = dict(doctor.devices())
    assert "driver" not in found and found["cuda:0"].endswith("utilization unknown: pip install 'tlkit[gpu]'")


def test_a_gpu_that_torch_cannot_use_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeDriver([L4]).install(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    found = dict(doctor.devices())
    assert found["cuda"] == "not available to torch" and found["gpu"].startswith("NVIDIA L4")
