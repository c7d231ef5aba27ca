"""Start onnxruntime sessions and turn their failures into tlkit errors."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from tlkit.errors import DataError, ResourceError, UnavailableError, UsageError, first_line, is_memory
from tlkit.interruption import held_back
from tlkit.options.devices import GPU

ONLY_FATAL = 4
"""Log severity. Errors are raised as exceptions too, so onnxruntime's log lines add nothing."""


class End(Protocol):
    """An input or output of a graph. shape: names stand for sizes that vary."""

    name: str
    shape: list[int | str]


class Session(Protocol):
    """An onnxruntime.InferenceSession, as far as tlkit uses it."""

    def run(self, outputs: list[str], inputs: dict[str, NDArray[np.uint8]]) -> list[NDArray[np.float32]]: ...

    def get_providers(self) -> list[str]: ...

    def get_inputs(self) -> Sequence[End]: ...

    def get_outputs(self) -> Sequence[End]: ...


def import_runtime(path: str) -> ModuleType:
    """Import onnxruntime without its logging. Raises UnavailableError if it is not installed."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at import
    try:
        with held_back():
            import onnxruntime
    except ImportError as error:
        if is_memory(error):
            raise
        raise UnavailableError(path, "needs onnxruntime", "Install it: pip install 'tlkit[onnx]'") from error
    onnxruntime.set_default_logger_severity(ONLY_FATAL)
    return cast(ModuleType, onnxruntime)


def start_session(runtime: ModuleType, path: str, content: bytes, device: str, threads: int) -> Session:
    """Load a graph on a device. Given as bytes, so onnxruntime cannot read external data from other files."""
    providers = providers_of(device, runtime.get_available_providers())
    options = runtime.SessionOptions()
    options.log_severity_level = ONLY_FATAL
    options.intra_op_num_threads = threads  # the default ignores the process's CPU affinity
    options.add_session_config_entry("session.load_model_format", "ONNX")  # the format that was checked
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves the cores to image decoding
    try:
        session: Session = runtime.InferenceSession(content, options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions have no public base class
        raise failure(path, error) from error
    if device.startswith(GPU) and session.get_providers()[0] != "CUDAExecutionProvider":
        raise UnavailableError("--device", f"{device} is not available: onnxruntime cannot start it")
    return session


def providers_of(device: str, available: list[str]) -> list[str | tuple[str, dict[str, int]]]:
    """onnxruntime's providers for a device, best first. Raises UsageError or UnavailableError."""
    match = re.fullmatch(rf"auto|cpu|{GPU}(?::(\d+))?", device)
    if match is None:
        raise UsageError("--device", f"{device!r} is not a device; expected auto, cpu, {GPU} or {GPU}:N")
    cpu: list[str | tuple[str, dict[str, int]]] = ["CPUExecutionProvider"]
    if device == "cpu" or (device == "auto" and "CUDAExecutionProvider" not in available):
        return cpu
    if "CUDAExecutionProvider" not in available:
        raise UnavailableError(
            "--device",
            f"{device} is not available: the installed onnxruntime runs on {' and '.join(map(plain, available))}",
            "Use --device cpu, or replace the package onnxruntime by onnxruntime-gpu.",
        )
    return [("CUDAExecutionProvider", {"device_id": int(match[1] or 0), "use_tf32": 0}), *cpu]


def plain(provider: str) -> str:
    """CPUExecutionProvider -> CPU"""
    return provider.removesuffix("ExecutionProvider")


def failure(path: str, error: Exception) -> Exception:
    """An exception of onnxruntime as a tlkit error."""
    if is_memory(error):
        return ResourceError("memory", f"out of memory ({first_line(error)})", "Try a smaller --batch-size.")
    return DataError(path, f"does not run in onnxruntime ({first_line(error)[:160]})")
