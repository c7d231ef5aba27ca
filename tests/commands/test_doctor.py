"""doctor says which libraries are missing, and which are too old to be used."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

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
    assert found["timm"] == "missing: install tlkit again"
    assert found["onnxruntime"] == "missing: pip install 'tlkit[onnx]'"
    assert found["pillow"] == found["onnxscript"] == "99"
