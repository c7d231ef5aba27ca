"""MODEL on a command line, for commands that label images: run by onnxruntime or by torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlkit.errors import UnavailableError, UsageError
from tlkit.model.labeller import Labeller

if TYPE_CHECKING:
    from tlkit.commands.model_graphs import ModelGraph


def open_labeller(
    path: str, weights: str | None, device: str, precision: str, trusted: str | None = None, engine: str = "auto"
) -> Labeller:
    """Open whatever MODEL names, on a device.

    weights: the backbone's file, for a checkpoint whose file has moved. trusted: the file that may run code, if any.
    engine: auto, torch or onnxruntime.
    """
    if path.endswith(".onnx"):
        return open_onnx_file(path, device, precision, engine)
    from tlkit.commands.model_graphs import graph_of, may_have_gpu

    on_processor = device == "cpu" or (device == "auto" and not may_have_gpu())
    may_be_kept = engine != "torch" and on_processor and precision in ("auto", "fp32") and trusted is None
    graph = graph_of(path) if may_be_kept else None
    if graph is not None and (kept := graph.open()):
        return kept  # seconds before torch would be there
    if engine == "onnxruntime":
        return prepared(path, graph)
    return open_torch_model(path, weights, device, precision, trusted, graph)


def open_onnx_file(path: str, device: str, precision: str, engine: str) -> Labeller:
    """An export to ONNX."""
    from tlkit.model.onnx_model import open_onnx

    if precision not in ("auto", "fp32"):
        raise UsageError(f"--precision {precision}", "is not for .onnx files, which compute in fp32")
    if engine == "torch":
        raise UsageError("--engine torch", "is not for .onnx files, which onnxruntime runs")
    return open_onnx(path, device)


def prepared(path: str, graph: ModelGraph | None) -> Labeller:
    """A model of another format, run by onnxruntime once that is prepared. Raises UnavailableError."""
    from tlkit.commands.model_graphs import Preparation

    if graph is not None:
        Preparation(graph).process.wait()
        if kept := graph.open():
            return kept
    raise UnavailableError(
        "--engine onnxruntime", f"cannot run {path}", "`tlkit export --format onnx` says why. Or use --engine torch."
    )


def open_torch_model(
    path: str, weights: str | None, device: str, precision: str, trusted: str | None, graph: ModelGraph | None
) -> Labeller:
    """A model run by torch; if it has a graph that may be kept, until onnxruntime takes over."""
    # torch and all that comes with it: seconds that others need not wait
    from tlkit.commands.devices import choose_device
    from tlkit.commands.exporting import pays_as_graph
    from tlkit.commands.model_graphs import Relay
    from tlkit.commands.models import open_model
    from tlkit.model.inference import choose_precision
    from tlkit.model.torch_model import TorchModel

    chosen = choose_device(device)
    model = TorchModel(open_model(path, weights, trusted), chosen, choose_precision(precision, chosen))
    return Relay(model, graph) if graph and pays_as_graph(model.network) else model
