"""MODEL on a command line, for commands that label images: run by onnxruntime or by torch, as the file asks."""

from __future__ import annotations

from tlkit.errors import UsageError
from tlkit.model.labeller import Labeller
from tlkit.options.devices import Placing


def open_labeller(
    path: str, weights: str | None, placing: Placing, precision: str, trusted: str | None = None
) -> Labeller:
    """Open whatever MODEL names, on its devices.

    weights: the backbone's file, for a checkpoint whose file has moved. trusted: the file that may run code, if any.
    """
    if path.endswith(".onnx"):
        from tlkit.model.onnx_model import open_onnx

        if precision not in ("auto", "fp32"):
            raise UsageError(f"--precision {precision}", "is not for .onnx files, which compute in fp32")
        if placing.parallel != "none":
            raise UsageError(f"--parallel {placing.parallel}", "is not for .onnx files, which run on one device")
        return open_onnx(path, placing.names[0])
    # torch and all that comes with it: seconds that .onnx need not wait
    from tlkit.commands.devices import choose_devices, show_gpu_use
    from tlkit.commands.models import open_model
    from tlkit.commands.placement import place
    from tlkit.model.torch_model import TorchModel

    devices = choose_devices(placing)
    show_gpu_use(devices)
    model = open_model(path, weights, trusted)
    place(model.network, path, devices, model.preprocessing.image_size)
    return TorchModel(model, devices.first, devices.precision(precision), devices.shared_out)
