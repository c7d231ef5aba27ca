"""Open MODEL of a command line as a predictor, run by torch or by onnxruntime. Loads torch only where torch runs it.

--engine auto: an .onnx file is run by onnxruntime; a run folder on a CPU by its model.onnx; everything else by torch.
"""

from __future__ import annotations

import os

from tlkit.errors import TlkitError, UnavailableError, UsageError
from tlkit.files.checksum import checksum_in_archive
from tlkit.files.inputs import open_input
from tlkit.files.onnx_file import MODEL_CHECKSUM_KEY, read_onnx
from tlkit.files.run_folder import RunFolder
from tlkit.inference.onnx_predictor import OnnxPredictor, open_graph, open_onnx
from tlkit.inference.predictor import Predictor
from tlkit.options.devices import DeviceSpec
from tlkit.terminal import log_status
from tlkit.versions import version


def open_predictor(
    path: str,
    weights: str | None,
    device_spec: DeviceSpec,
    precision: str,
    trusted: str | None = None,
    engine: str = "auto",
    ranks: int = 1,
) -> Predictor:
    """Open whatever MODEL names, on its devices.

    weights: the backbone's file, for a checkpoint whose file has moved. trusted: the file that may run code, if any.
    engine: auto, torch or onnxruntime. ranks: processes that each open the model.
    """
    if path.endswith(".onnx"):
        return open_onnx_file(path, device_spec, precision, engine)
    if engine == "onnxruntime":
        return open_onnx_of_run(path)
    on_cpu = device_spec.names == ("cpu",) or (device_spec == DeviceSpec() and not may_have_gpu())
    if engine == "auto" and on_cpu and precision in ("auto", "fp32") and weights is None and trusted is None:
        predictor = find_onnx_of_run(path)
        if predictor is not None:
            return predictor
    return open_torch_model(path, weights, device_spec, precision, trusted, ranks)


def open_onnx_file(path: str, device_spec: DeviceSpec, precision: str, engine: str) -> Predictor:
    """An export to ONNX. Raises UsageError for options that are for torch."""
    if precision not in ("auto", "fp32"):
        raise UsageError(f"--precision {precision}", "is not for .onnx files, which compute in fp32")
    if device_spec.parallel != "none":
        raise UsageError(f"--parallel {device_spec.parallel}", "is not for .onnx files, which run on one device")
    if engine == "torch":
        raise UsageError("--engine torch", "is not for .onnx files, which onnxruntime runs")
    return open_onnx(path, device_spec.names[0])


def find_onnx_of_run(path: str) -> OnnxPredictor | None:
    """The model.onnx of a run folder, on the CPU; None where torch must run model.pt.

    One status line says why a model.onnx is not used.
    """
    run = RunFolder(path)
    if not os.path.isdir(path) or not os.path.exists(run.onnx_file) or version("onnxruntime") is None:
        return None
    try:
        return open_onnx_beside(run.model_file)
    except TlkitError as error:
        log_status("warning", f"{error}; model.pt is used instead")
        return None


def open_onnx_of_run(path: str) -> OnnxPredictor:
    """The model.onnx of a run folder, or the one beside a model.pt, on the CPU. Raises UnavailableError."""
    model_file = RunFolder(path).model_file if os.path.isdir(path) else path
    if not os.path.exists(onnx_beside(model_file)):
        hint = f"Use --engine torch, or: tlkit export {path} --format onnx --output model.onnx"
        raise UnavailableError("--engine onnxruntime", f"there is no model.onnx beside {model_file}", hint)
    return open_onnx_beside(model_file)


def open_onnx_beside(model_file: str) -> OnnxPredictor:
    """The model.onnx that was made from this model.pt.

    Raises UnavailableError if it was made from another one, and what open_onnx raises.
    """
    path = onnx_beside(model_file)
    file = read_onnx(path)
    with open_input(model_file) as content:
        checksum = checksum_in_archive(content)
    if checksum is None or file.metadata.get(MODEL_CHECKSUM_KEY) != checksum:
        problem = f"was not made from this {os.path.basename(model_file)}"
        raise UnavailableError(path, problem, "Use --engine torch.")
    return open_graph(path, file, "cpu")


def onnx_beside(model_file: str) -> str:
    """model.pt -> the model.onnx in the same folder"""
    return RunFolder(os.path.dirname(model_file)).onnx_file


def may_have_gpu() -> bool:
    """Whether the system shows a GPU driver, found out without loading torch."""
    return any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")))


def open_torch_model(
    path: str, weights: str | None, device_spec: DeviceSpec, precision: str, trusted: str | None, ranks: int
) -> Predictor:
    """A model of any format but ONNX, run by torch."""
    # These imports load torch, which takes seconds.
    from tlkit.devices.select import choose_devices, show_gpu_use
    from tlkit.inference.torch_predictor import TorchPredictor
    from tlkit.model.open import open_model
    from tlkit.model.pipeline.split import place

    devices = choose_devices(device_spec, ranks)
    show_gpu_use(devices)
    loaded = open_model(path, weights, trusted)
    place(loaded.network, path, devices, loaded.preprocessing.image_size)
    return TorchPredictor(loaded, devices.first, devices.precision(precision), devices.data_parallel)
