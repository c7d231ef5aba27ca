"""MODEL on a command line, for commands that label images: run by onnxruntime or by torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlkit.errors import UnavailableError, UsageError
from tlkit.inference.predictor import Predictor
from tlkit.options.devices import DeviceSpec

if TYPE_CHECKING:
    from tlkit.inference.onnx_handover import ModelGraph


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
    engine: auto, torch or onnxruntime. ranks: that each open it.
    """
    if path.endswith(".onnx"):
        return open_onnx_file(path, device_spec, precision, engine)
    from tlkit.inference.onnx_handover import graph_of, may_have_gpu

    on_processor = device_spec.names == ("cpu",) or (device_spec == DeviceSpec() and not may_have_gpu())
    may_be_kept = engine != "torch" and on_processor and precision in ("auto", "fp32") and trusted is None
    graph = graph_of(path) if may_be_kept else None
    if graph is not None and (kept := graph.open()):
        return kept  # seconds before torch would be there
    if engine == "onnxruntime":
        return prepared(path, graph)
    return open_torch_model(path, weights, device_spec, precision, trusted, graph, ranks)


def open_onnx_file(path: str, device_spec: DeviceSpec, precision: str, engine: str) -> Predictor:
    """An export to ONNX."""
    from tlkit.inference.onnx_predictor import open_onnx

    if precision not in ("auto", "fp32"):
        raise UsageError(f"--precision {precision}", "is not for .onnx files, which compute in fp32")
    if device_spec.parallel != "none":
        raise UsageError(f"--parallel {device_spec.parallel}", "is not for .onnx files, which run on one device")
    if engine == "torch":
        raise UsageError("--engine torch", "is not for .onnx files, which onnxruntime runs")
    return open_onnx(path, device_spec.names[0])


def prepared(path: str, graph: ModelGraph | None) -> Predictor:
    """A model of another format, run by onnxruntime once that is prepared. Raises UnavailableError."""
    from tlkit.inference.onnx_handover import Preparation

    if graph is not None:
        Preparation(graph).process.wait()
        if kept := graph.open():
            return kept
    raise UnavailableError(
        "--engine onnxruntime", f"cannot run {path}", "`tlkit export --format onnx` says why. Or use --engine torch."
    )


def open_torch_model(
    path: str,
    weights: str | None,
    device_spec: DeviceSpec,
    precision: str,
    trusted: str | None,
    graph: ModelGraph | None,
    ranks: int,
) -> Predictor:
    """A model run by torch; if it has a graph that may be kept, until onnxruntime takes over."""
    # torch and all that comes with it: seconds that others need not wait
    from tlkit.devices.select import choose_devices, show_gpu_use
    from tlkit.export.verify import pays_as_graph
    from tlkit.inference.onnx_handover import Relay
    from tlkit.inference.torch_predictor import TorchPredictor
    from tlkit.model.open import open_model
    from tlkit.model.pipeline.split import place

    devices = choose_devices(device_spec, ranks)
    show_gpu_use(devices)
    loaded = open_model(path, weights, trusted)
    place(loaded.network, path, devices, loaded.preprocessing.image_size)
    model = TorchPredictor(loaded, devices.first, devices.precision(precision), devices.data_parallel)
    return Relay(model, graph) if graph and pays_as_graph(model.network) else model
