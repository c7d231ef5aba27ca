"""A process that prepares a model for onnxruntime while another labels by torch, and stays out of its way."""

from __future__ import annotations

import contextlib
import os
import threading

from tlkit.features.graphs import keep_graph
from tlkit.inference.onnx_handover import ModelGraph, graph_of
from tlkit.model.onnx_session import import_runtime, start_session
from tlkit.options import FinetuneOptions
from tlkit.options.declare import bytes_of

NICE = 10
"""How far others go before."""


FIRST_TO_GO = "1000"
"""Where memory runs out, the kernel should end this process, not the one that is waited for."""


def main(path: str, seal: str) -> None:
    """Keep the graph of a model's file, which has this seal. Ends when its standard input is closed."""
    threading.Thread(target=end_with_the_other, daemon=True).start()
    os.nice(NICE)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(FIRST_TO_GO)
    prepare(ModelGraph(path, seal))


def end_with_the_other() -> None:
    """Wait for the end of standard input."""
    os.read(0, 1)
    os._exit(1)


def prepare(graph: ModelGraph) -> None:
    """Export, compare and keep. Raises anything if that cannot be."""
    import torch  # seconds, in which the other may end already

    from tlkit.export.graphs import LOGITS, PIXELS, as_onnx, require_extra
    from tlkit.export.verify import as_exportable, compare
    from tlkit.model.open import open_model

    torch.set_num_threads(1)
    require_extra(graph.path)
    model = open_model(graph.path)
    if graph_of(graph.path) != graph:
        return  # the file was replaced meanwhile
    exportable = as_exportable(model)
    content = as_onnx(model.from_pixels(model.network), exportable.image_size, LOGITS, exportable.metadata())
    session = start_session(import_runtime(graph.path), graph.path, content, "cpu", 1)

    def run(pixels: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run([LOGITS], {PIXELS: pixels.numpy()})[0])

    compare(model, run, graph.path, sizes=(1, 7))
    # What else is kept stays: somebody may have given it a larger --cache-limit than the default.
    keep_graph(graph.space(), content, bytes_of("--cache-limit", FinetuneOptions.cache_limit), displacing=False)
