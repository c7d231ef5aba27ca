"""Start onnxruntime sessions and turn their failures into tlkit errors."""

from __future__ import annotations

import os
import re
from typing import Any

from tlkit.errors import DataError, ResourceError, UnavailableError, UsageError, first_line, is_memory

NOTHING_BUT_FATAL = 4
"""onnxruntime's own log lines are no use to a person; what goes wrong comes as an exception too."""


def import_runtime(path: str) -> Any:
    """onnxruntime, told to be silent. Raises UnavailableError."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
    try:
        import onnxruntime
    except ImportError as error:
        problem = "needs onnxruntime, which is not installed; get it by: pip install 'tlkit[onnx]'"
        raise UnavailableError(path, problem) from error
    onnxruntime.set_default_logger_severity(NOTHING_BUT_FATAL)
    return onnxruntime


def start_session(runtime: Any, path: str, content: bytes, device: str, threads: int) -> Any:
    """The graph, ready to run on a device. It is given as bytes, so that nothing else is looked for beside the file."""
    providers = providers_of(device, runtime.get_available_providers())
    options = runtime.SessionOptions()
    options.log_severity_level = NOTHING_BUT_FATAL
    options.intra_op_num_threads = threads  # by itself it takes cores that are not ours
    options.add_session_config_entry("session.load_model_format", "ONNX")  # what was checked, and nothing else
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that read images need them
    try:
        session = runtime.InferenceSession(content, options, providers=providers, enable_fallback=0)
    except Exception as error:  # as above
        raise failure(path, error) from error
    if device.startswith("cuda") and session.get_providers()[0] != "CUDAExecutionProvider":
        raise UnavailableError("--device", f"{device} is not here: onnxruntime cannot start it")
    return session


def providers_of(device: str, available: list[str]) -> list[Any]:
    """The providers of onnxruntime that run a model on a device, best first. Raises UsageError or UnavailableError."""
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if match is None:
        raise UsageError("--device", f"{device!r} is no device; expected auto, cpu, cuda or cuda:N")
    cpu = ["CPUExecutionProvider"]
    if device == "cpu" or (device == "auto" and "CUDAExecutionProvider" not in available):
        return cpu
    if "CUDAExecutionProvider" not in available:
        raise UnavailableError(
            "--device",
            f"{device} is not here: the onnxruntime that is installed runs on {' and '.join(map(plain, available))}",
            "Use --device cpu, or install onnxruntime-gpu in its place.",
        )
    return [("CUDAExecutionProvider", {"device_id": int(match[1] or 0), "use_tf32": 0}), *cpu]


def plain(provider: str) -> str:
    """CPUExecutionProvider -> CPU"""
    return provider.removesuffix("ExecutionProvider")


def failure(path: str, error: Exception) -> Exception:
    """An exception of onnxruntime in our words."""
    if is_memory(error):
        return ResourceError("memory", f"is used up ({first_line(error)})", "Try a smaller --batch-size.")
    return DataError(path, f"does not run in onnxruntime ({first_line(error)[:160]})")
