"""The export formats that hold weights, and the table of all formats."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tlkit.errors import OutputError, UsageError
from tlkit.export.exporter import Exportable, Exporter
from tlkit.export.graphs import Onnx, TorchExport
from tlkit.files.artifact import load_safely
from tlkit.files.checksum import write_checksummed_archive
from tlkit.files.description import DESCRIPTION_KEY
from tlkit.files.safetensors_file import content_with_checksum, read_safetensors
from tlkit.files.timm_folder import CONFIG_FILE, WEIGHTS_FILE, with_config
from tlkit.files.trusted import unpickle
from tlkit.model.head import HEADS


class StateDict:
    """A torch file of tensors with the names that timm or torchvision uses."""

    def write(self, model: Exportable, path: str) -> None:
        with open(path, "wb") as file:
            write_checksummed_archive(file, lambda stream: torch.save(model.state(), stream))

    def read(self, model: Exportable, path: str) -> Callable[[Tensor], Tensor]:
        return model.from_pixels(with_state(model.rebuild(), load_safely(path)))

    def how_to_open(self, model: Exportable, path: str) -> str:
        return f"{plain_model(model)}.load_state_dict(torch.load({path!r}))"


class Safetensors:
    """Tensors, with the model's description in the metadata. tlkit can open it."""

    def write(self, model: Exportable, path: str) -> None:
        if model.source == "torchvision" and model.name.startswith("mnasnet"):
            raise UsageError(
                "--format safetensors",
                f"cannot hold the state dict version that {model.source}/{model.name} needs",
                "Use --format state_dict.",
            )
        with open(path, "wb") as file:
            file.write(content_with_checksum(model.state(), model.metadata()))

    def read(self, model: Exportable, path: str) -> Callable[[Tensor], Tensor]:
        return model.from_pixels(with_state(model.rebuild(), read_safetensors(path).state))

    def how_to_open(self, model: Exportable, path: str) -> str:
        return f"{plain_model(model)}.load_state_dict(safetensors.torch.load_file({path!r}))"


class FullModel:
    """The pickled module, with the model's description in an attribute. Loading it runs code."""

    def write(self, model: Exportable, path: str) -> None:
        network = copy.copy(model.network)
        setattr(network, DESCRIPTION_KEY, model.metadata())
        try:
            with open(path, "wb") as file:
                write_checksummed_archive(file, lambda stream: torch.save(network, stream))
        except (AttributeError, TypeError) as error:
            raise UsageError("--format full", f"{model.source}/{model.name} cannot be pickled: {error}") from error

    def read(self, model: Exportable, path: str) -> Callable[[Tensor], Tensor]:
        network = unpickle(path, trusted=path)  # this process has just written it
        assert isinstance(network, nn.Module)
        return model.from_pixels(network)

    def how_to_open(self, model: Exportable, path: str) -> str:
        return f"torch.load({path!r}, weights_only=False)  # runs code: only for files you trust"


class TimmFolder:
    """A folder for timm.create_model("local-dir:...") and the Hugging Face hub, with labels."""

    def write(self, model: Exportable, path: str) -> None:
        if model.source != "timm" or model.head != "linear":
            problem = f"needs a timm model with a linear head, not {model.source}/{model.name} with head {model.head}"
            raise UsageError("--format timm", problem, "Use --format safetensors.")
        from timm.models import save_for_hf

        height, width = model.image_size
        labels = {"label_names": list(model.classes), DESCRIPTION_KEY: dict(model.description)}
        save_for_hf(
            model.network,
            path,
            model_config=labels,
            safe_serialization=True,
            data_config={"input_size": (3, height, width), "crop_pct": crop_share(model)},
        )
        with open(os.path.join(path, CONFIG_FILE), "rb") as config:
            metadata = with_config(model.metadata(), config.read())
        with open(os.path.join(path, WEIGHTS_FILE), "wb") as weights:
            weights.write(content_with_checksum(model.state(), metadata))

    def read(self, model: Exportable, path: str) -> Callable[[Tensor], Tensor]:
        import timm

        network = timm.create_model(f"local-dir:{path}", pretrained=True)
        labels: Any = network.pretrained_cfg
        if list(labels.get("label_names") or ()) != list(model.classes):
            raise OutputError(path, "was read back without its labels")
        return model.from_pixels(network)

    def how_to_open(self, model: Exportable, path: str) -> str:
        return f"timm.create_model({'local-dir:' + path!r}, pretrained=True)"


EXPORTERS: dict[str, Exporter] = {
    "state_dict": StateDict(),
    "full": FullModel(),
    "safetensors": Safetensors(),
    "timm": TimmFolder(),
    "onnx": Onnx(),
    "torch_export": TorchExport(),
}


def with_state(network: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load a state dict; every key must match."""
    network.load_state_dict(state, strict=True)
    return network


def crop_share(model: Exportable) -> float:
    """timm's crop_pct: crop size divided by resize size."""
    preprocessing = model.description["preprocessing"]
    return float(preprocessing["image_size"][0] / preprocessing["resize"][0])


def plain_model(model: Exportable) -> str:
    """Python code that builds the network without tlkit."""
    classes = len(model.classes)
    if HEADS[model.head].on_class_outputs:
        classes = model.description["backbone"]["classes"]
    if model.source == "timm":
        size = model.description["backbone"]["image_size"]
        fixed = f", img_size={size}" if size is not None and hasattr(model.network, "patch_embed") else ""
        plain = f"timm.create_model({model.name!r}, num_classes={classes}{fixed})"
    else:
        no_auxiliary = ", aux_logits=False" if model.name in ("googlenet", "inception_v3") else ""
        plain = f"torchvision.models.get_model({model.name!r}, num_classes={classes}{no_auxiliary})"
    return HEADS[model.head].python.format(network=plain, inputs=classes, classes=len(model.classes))
