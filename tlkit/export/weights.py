"""The export formats that hold weights, and the table of all formats."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from tlkit.errors import OutputError, UsageError
from tlkit.export.graphs import Onnx, TorchExport
from tlkit.files.artifact import load_safely
from tlkit.files.checksum import write_checksummed_archive
from tlkit.files.description import DESCRIPTION_KEY, metadata_of
from tlkit.files.safetensors_file import content_with_checksum, read_safetensors
from tlkit.files.timm_folder import CONFIG_FILE, WEIGHTS_FILE, with_config
from tlkit.files.trusted import unpickle
from tlkit.model.files import LoadedModel
from tlkit.model.head import HEADS
from tlkit.model.sources import SOURCES


class Exporter(Protocol):
    """An export format."""

    def write(self, model: LoadedModel, path: str) -> None:
        """Write the file or folder. Raises UsageError if the format cannot hold the model."""

    def read(self, model: LoadedModel, path: str) -> Callable[[Tensor], Tensor]:
        """Load what was written as another program would: uint8 [B, H, W, 3] -> logits [B, C]"""

    def how_to_open(self, model: LoadedModel, path: str) -> str:
        """A line of Python that opens it without tlkit."""


class StateDict:
    """A torch file of tensors with the names that timm or torchvision uses."""

    def write(self, model: LoadedModel, path: str) -> None:
        with open(path, "wb") as file:
            write_checksummed_archive(file, lambda stream: torch.save(separate_state(model), stream))

    def read(self, model: LoadedModel, path: str) -> Callable[[Tensor], Tensor]:
        return rebuilt(model, load_safely(path))

    def how_to_open(self, model: LoadedModel, path: str) -> str:
        return f"{plain_model(model)}.load_state_dict(torch.load({path!r}))"


class Safetensors:
    """Tensors, with the model's description in the metadata. tlkit can open it."""

    def write(self, model: LoadedModel, path: str) -> None:
        if str(model.description.backbone).startswith("torchvision/mnasnet"):
            problem = f"cannot hold the state dict version that {model.description.backbone} needs"
            raise UsageError("--format safetensors", problem, "Use --format state_dict.")
        with open(path, "wb") as file:
            metadata = metadata_of(model.description.to_dict())
            file.write(content_with_checksum(separate_state(model), metadata))

    def read(self, model: LoadedModel, path: str) -> Callable[[Tensor], Tensor]:
        return rebuilt(model, read_safetensors(path).state)

    def how_to_open(self, model: LoadedModel, path: str) -> str:
        return f"{plain_model(model)}.load_state_dict(safetensors.torch.load_file({path!r}))"


class FullModel:
    """The pickled module, with the model's description in an attribute. Loading it runs code."""

    def write(self, model: LoadedModel, path: str) -> None:
        network = copy.copy(model.network)
        setattr(network, DESCRIPTION_KEY, metadata_of(model.description.to_dict()))
        try:
            with open(path, "wb") as file:
                write_checksummed_archive(file, lambda stream: torch.save(network, stream))
        except (AttributeError, TypeError) as error:
            raise UsageError("--format full", f"{model.description.backbone} cannot be pickled: {error}") from error

    def read(self, model: LoadedModel, path: str) -> Callable[[Tensor], Tensor]:
        network = unpickle(path, trusted=path)  # this process has just written it
        assert isinstance(network, nn.Module)
        return model.from_pixels(network)

    def how_to_open(self, model: LoadedModel, path: str) -> str:
        return f"torch.load({path!r}, weights_only=False)  # runs code: only for files you trust"


class TimmFolder:
    """A folder for timm.create_model("local-dir:...") and the Hugging Face hub, with labels."""

    def write(self, model: LoadedModel, path: str) -> None:
        described, preprocessing = model.description, model.preprocessing
        if library_name(model)[0] != "timm" or described.head != "linear":
            problem = f"needs a timm model with a linear head, not {described.backbone} with head {described.head}"
            raise UsageError("--format timm", problem, "Use --format safetensors.")
        from timm.models import save_for_hf

        crop_pct = preprocessing.image_size[0] / preprocessing.resize[0]
        save_for_hf(
            model.network,
            path,
            model_config={"label_names": list(model.classes), DESCRIPTION_KEY: described.to_dict()},
            safe_serialization=True,
            data_config={"input_size": (3, *preprocessing.image_size), "crop_pct": crop_pct},
        )
        with open(os.path.join(path, CONFIG_FILE), "rb") as config:
            metadata = with_config(metadata_of(described.to_dict()), config.read())
        weights = os.path.join(path, WEIGHTS_FILE)
        os.unlink(weights)  # safetensors makes it readable for its owner only, whatever the umask is
        with open(weights, "wb") as file:
            file.write(content_with_checksum(separate_state(model), metadata))

    def read(self, model: LoadedModel, path: str) -> Callable[[Tensor], Tensor]:
        import timm

        network = timm.create_model(f"local-dir:{path}", pretrained=True)
        if list(getattr(network, "pretrained_cfg").get("label_names") or ()) != list(model.classes):  # noqa: B009
            raise OutputError(path, "was read back without its labels")
        return model.from_pixels(network)

    def how_to_open(self, model: LoadedModel, path: str) -> str:
        return f"timm.create_model({'local-dir:' + path!r}, pretrained=True)"


EXPORTERS: dict[str, Exporter] = {
    "state_dict": StateDict(),
    "full": FullModel(),
    "safetensors": Safetensors(),
    "timm": TimmFolder(),
    "onnx": Onnx(),
    "torch_export": TorchExport(),
}


def separate_state(model: LoadedModel) -> dict[str, Tensor]:
    """The network's state dict; tensors are contiguous and share no memory."""
    state = model.network.state_dict()
    for key, tensor in state.items():
        state[key] = tensor.contiguous().clone()
    return state


def rebuilt(model: LoadedModel, state: Mapping[str, Tensor]) -> nn.Module:
    """The same network with this state dict, of which every key must match: uint8 [B, H, W, 3] -> logits [B, C]"""
    network = model.description.build()
    network.load_state_dict(state, strict=True)
    return model.from_pixels(network)


def library_name(model: LoadedModel) -> tuple[str, str]:
    """The library and the name with which Python code without tlkit builds the backbone."""
    backbone = model.description.backbone
    return SOURCES[backbone.source].library_name(backbone.name)


def plain_model(model: LoadedModel) -> str:
    """Python code that builds the network without tlkit."""
    described, head = model.description, HEADS[model.description.head]
    library, name = library_name(model)
    classes = described.backbone_classes if head.on_class_outputs else len(model.classes)
    if library == "timm":
        size = described.image_size
        fixed = f", img_size={size}" if size is not None and hasattr(model.network, "patch_embed") else ""
        plain = f"timm.create_model({name!r}, num_classes={classes}{fixed})"
    else:
        no_auxiliary = ", aux_logits=False" if name in ("googlenet", "inception_v3") else ""
        plain = f"torchvision.models.get_model({name!r}, num_classes={classes}{no_auxiliary})"
    return head.python.format(network=plain, inputs=classes, classes=len(model.classes))
