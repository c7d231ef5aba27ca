"""Where onnxruntime runs a model, and what becomes of its own errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tlkit.data.preprocessing import Preprocessing
from tlkit.errors import DataError, ResourceError, TlkitError, UnavailableError, UsageError
from tlkit.inference.onnx_predictor import OnnxPredictor
from tlkit.model.onnx_session import providers_of

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def names(providers: list[Any]) -> list[str]:
    return [provider if isinstance(provider, str) else provider[0] for provider in providers]


def test_devices() -> None:
    assert providers_of("auto", [CPU]) == providers_of("cpu", [CUDA, CPU]) == [CPU]
    assert names(providers_of("auto", [CUDA, CPU])) == [CUDA, CPU]
    assert providers_of("cuda:3", [CUDA, CPU])[0][1]["device_id"] == 3
    for device in ("cuda", "cuda:0"):
        with pytest.raises(UnavailableError, match="runs on CPU"):
            providers_of(device, [CPU])
    for device in ("gpu", "cuda:x", "", "mps"):
        with pytest.raises(UsageError):
            providers_of(device, [CUDA, CPU])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Failed to allocate memory for requested buffer of size 9", ResourceError),
        ("std::bad_alloc", ResourceError),
        ("Non-zero status code returned while running Conv node\nmore", DataError),
    ],
)
def test_what_goes_wrong_while_running(text: str, kind: type[TlkitError]) -> None:
    class Session:
        def run(self, *arguments: object) -> None:
            raise RuntimeError(text)

    preprocessing = Preprocessing((8, 8), (8, 8), "center", "bilinear", (0, 0, 0), (1, 1, 1))
    model = OnnxPredictor("m.onnx", Session(), ("a",), preprocessing)
    with pytest.raises(kind):
        model.logits(np.zeros((1, 8, 8, 3), np.uint8))
