"""MODEL on a command line, for commands that label images: run by onnxruntime or by torch, as the file asks."""

from __future__ import annotations

from tlkit.errors import UsageError
from tlkit.model.labeller import Labeller


def open_labeller(path: str, weights: str | None, device: str, precision: str, trusted: str | None = None) -> Labeller:
    """Open whatever MODEL names, on a device.

    weights: the backbone's file, for a checkpoint whose file has moved. trusted: the file that may run code, if any.
    """
    if path.endswith(".onnx"):
        from tlkit.model.onnx_model import open_onnx

        if precision not in ("auto", "fp32"):
            raise UsageError(f"--precision {precision}", "is not for .onnx files, which compute in fp32")
        return open_onnx(path, device)
    # torch and all that comes with it: seconds that .onnx need not wait
    from tlkit.commands.devices import choose_device
    from tlkit.commands.models import open_model
    from tlkit.model.inference import choose_precision
    from tlkit.model.torch_model import TorchModel

    chosen = choose_device(device)
    return TorchModel(open_model(path, weights, trusted), chosen, choose_precision(precision, chosen))
