"""Open MODEL of a command line as a predictor, run by torch or by onnxruntime. Loads torch only where torch runs it.

--engine auto: an .onnx file is run by onnxruntime; a run folder on a CPU by its model.onnx; everything else by torch.
"""

from __future__ import annotations

import os
import shlex

from tlkit.errors import TlkitError, UnavailableError, UsageError
from tlkit.files.checksum import checksum_in_archive
from tlkit.files.inputs import open_input
from tlkit.files.onnx_file import MODEL_CHECKSUM_KEY, read_onnx
from tlkit.files.run_folder import RunFolder
from tlkit.inference.onnx_predictor import OnnxPredictor, open_graph
from tlkit.inference.predictor import Predictor
from tlkit.options.devices import DeviceSpec
from tlkit.options.predict import InferenceOptions
from tlkit.terminal import log_status
from tlkit.versions import version


def open_predictor(options: InferenceOptions, ranks: int = 1) -> Predictor:
    """Open MODEL on its devices. ranks: processes that each open it.

    Raises what read_onnx, open_graph and open_model raise, and UsageError for options that the model does not take.
    """
    spec = options.device_spec()
    if options.model.endswith(".onnx"):
        require_options_for_onnx(options)
        return open_graph(options.model, read_onnx(options.model), spec.names[0])
    run = RunFolder(options.model)
    model_file = run.model_file if os.path.isdir(options.model) else options.model
    if options.engine == "onnxruntime":
        if not os.path.exists(onnx_beside(model_file)):
            words = ["tlkit", "export", options.model, "--format", "onnx", "--output", onnx_beside(model_file)]
            hint = f"Use --engine torch.\nOr first: {shlex.join(words)}"
            raise UnavailableError("--engine onnxruntime", f"there is no model.onnx beside {model_file}", hint)
        return open_onnx_beside(model_file)
    on_cpu = spec.names == ("cpu",) or (spec == DeviceSpec() and not may_have_gpu())
    plain = options.precision in ("auto", "fp32") and options.weights is None and options.trust_pickle is None
    if options.engine == "auto" and on_cpu and plain and os.path.isdir(options.model):
        predictor = find_onnx_of_run(run)
        if predictor is not None:
            return predictor
    # These imports load torch, which takes seconds.
    from tlkit.devices.select import choose_devices, show_gpu_use
    from tlkit.inference.torch_predictor import TorchPredictor
    from tlkit.model.open import open_model
    from tlkit.model.pipeline.split import place

    devices = choose_devices(spec, ranks)
    show_gpu_use(devices)
    loaded = open_model(options.model, options.weights, options.trust_pickle)
    place(loaded.network, options.model, devices, loaded.preprocessing.image_size)
    return TorchPredictor(loaded, devices.first, devices.precision(options.precision), devices.data_parallel)


def require_options_for_onnx(options: InferenceOptions) -> None:
    """Raises UsageError for options that are for torch."""
    if options.precision not in ("auto", "fp32"):
        raise UsageError(f"--precision {options.precision}", "is not for .onnx files, which compute in fp32")
    if options.parallel != "none":
        raise UsageError(f"--parallel {options.parallel}", "is not for .onnx files, which run on one device")
    if options.engine == "torch":
        raise UsageError("--engine torch", "is not for .onnx files, which onnxruntime runs")


def find_onnx_of_run(run: RunFolder) -> OnnxPredictor | None:
    """The model.onnx of a run folder, on the CPU; None where torch must run model.pt.

    One status line says why a model.onnx is not used.
    """
    if not os.path.exists(run.onnx_file) or version("onnxruntime") is None:
        return None
    try:
        return open_onnx_beside(run.model_file)
    except TlkitError as error:
        log_status("warning", f"{error}; model.pt is used instead")
        return None


def open_onnx_beside(model_file: str) -> OnnxPredictor:
    """The model.onnx that was made from this model.pt.

    Raises UnavailableError if it was made from another one, and what read_onnx and open_graph raise.
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
