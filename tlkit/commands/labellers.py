"""MODEL on a command line, for commands that label images: run by onnxruntime or by torch, as the file asks."""

from __future__ import annotations

from tlkit.model.labeller import Labeller


def open_labeller(path: str, weights: str | None, device: str) -> Labeller:
    """Open whatever MODEL names, on a device. weights: the backbone's file, for a checkpoint whose file has moved."""
    if path.endswith(".onnx"):
        from tlkit.model.onnx_model import open_onnx

        return open_onnx(path, device)
    from tlkit.commands.devices import choose_device
    from tlkit.commands.models import open_model  # torch and all that comes with it: seconds that .onnx need not wait

    chosen = choose_device(device)
    return open_model(path, weights).to(chosen)
