"""The description of a model, and model.pt: one file with all that prediction needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

from tlkit.data.normalize import normalize
from tlkit.data.preprocessing import LARGEST_SIDE, Preprocessing
from tlkit.errors import MismatchError, UsageError
from tlkit.files.artifact import as_content_of, write_artifact
from tlkit.files.description import class_names, mapping, text
from tlkit.model.backbones import BackboneName, is_known
from tlkit.model.classifier import build_plain_network
from tlkit.model.head import HEADS
from tlkit.model.state_dict import list_differences, load_tensors, tensors

MODEL_FORMAT, CHECKPOINT_FORMAT = "tlkit-model", "tlkit-checkpoint"


@dataclass(frozen=True)
class ModelDescription:
    """All of a model but its tensors: enough to rebuild the network and to preprocess images.

    weights: "pretrained", "none" or the base name of a weights file. sha256: of the backbone's frozen weights.
    backbone_classes: class outputs of the backbone under a stacked head, else None. trainable: number of trained
    parameters.
    """

    backbone: BackboneName
    weights: str
    sha256: str
    image_size: int | None
    backbone_classes: int | None
    head: str
    hidden: int | None
    trainable: int
    classes: tuple[str, ...]
    preprocessing: Preprocessing

    def to_dict(self) -> dict[str, object]:
        """Plain types, under the keys that checkpoints and model.pt use."""
        return {
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.to_dict(),
            "backbone": {
                "source": self.backbone.source,
                "name": self.backbone.name,
                "weights": self.weights,
                "sha256": self.sha256,
                "image_size": self.image_size,
                "classes": self.backbone_classes,
            },
            "head": {"kind": self.head, "hidden": self.hidden, "trainable": self.trainable},
        }

    def build(self) -> nn.Module:
        """Build the network with random weights."""
        return build_plain_network(
            self.backbone, len(self.classes), self.head, self.hidden, self.image_size, self.backbone_classes
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """The inverse of to_dict. Raises KeyError, TypeError or ValueError for invalid values."""
        backbone, head = mapping(values["backbone"]), mapping(values["head"])
        kind = text(head["kind"])
        if kind not in HEADS:
            raise ValueError(f"{kind[:80]!r} is not known; expected {' or '.join(HEADS)}")
        return cls(
            backbone=BackboneName(text(backbone["source"]), text(backbone["name"])),
            weights=text(backbone["weights"]),
            sha256=text(backbone["sha256"]),
            image_size=number_or_none(backbone["image_size"], LARGEST_SIDE),
            backbone_classes=number_or_none(backbone["classes"]),
            head=kind,
            hidden=number_or_none(head["hidden"]),
            trainable=number_or_none(head["trainable"] or None) or 0,
            classes=class_names(values["classes"]),
            preprocessing=Preprocessing.from_dict(mapping(values["preprocessing"])),
        )


def number_or_none(value: object, largest: float = math.inf) -> int | None:
    """Return an integer from 1 to `largest`, or None. Raises TypeError or ValueError for other values."""
    if value is not None and type(value) is not int:
        raise TypeError(f"expected a number, found a {type(value).__name__}")
    if value is not None and not 1 <= value <= largest:
        raise ValueError(f"{value} is out of range; expected 1 to {largest:g}")
    return value


@dataclass(frozen=True)
class LoadedModel:
    """A complete model. network: normalized images [B, 3, H, W] -> logits [B, C]."""

    network: nn.Module
    description: ModelDescription

    @property
    def classes(self) -> tuple[str, ...]:
        return self.description.classes

    @property
    def preprocessing(self) -> Preprocessing:
        return self.description.preprocessing

    def from_pixels(self, network: nn.Module) -> nn.Module:
        """Put this model's normalization before a network: uint8 pixels [B, H, W, 3] -> logits [B, C]."""
        return FromPixels(network, self.preprocessing).eval()


class FromPixels(nn.Module):
    """A network that normalizes its input itself."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] -> logits [B, C]"""
        logits: Tensor = self.network(normalize(pixels, self.preprocessing))
        return logits


def write_model(path: str, model: LoadedModel, figures: Mapping[str, object], inside: str | None = None) -> None:
    """Write model.pt atomically. figures: metrics of the run, plain types. inside: as in write_atomically."""
    content = {
        **model.description.to_dict(),
        "figures": dict(figures),
        "model_state_dict": dict(model.network.state_dict()),
    }
    write_artifact(path, MODEL_FORMAT, content, inside)


def load_described_model(path: str, values: Mapping[str, object], state: object) -> LoadedModel:
    """Build the model that a file describes and load its tensors. Raises DataError or MismatchError naming path."""
    with as_content_of(path, "model"):
        description = ModelDescription.from_dict(values)
        loaded = tensors(state)
    require_units(path, loaded, len(description.classes), description.hidden, description.backbone_classes)
    return LoadedModel(load_network(path, description, loaded), description)


def require_units(path: str, state: Mapping[str, Tensor], *units: int | None) -> None:
    """Raises DataError for more units than the file has numbers: a small file could make tlkit allocate terabytes."""
    with as_content_of(path, "model"):
        numbers = sum(tensor.numel() for tensor in state.values())
        if any(count is not None and count > numbers for count in units):
            raise ValueError("it declares more classes or units than it has weights for")


def load_network(path: str, description: ModelDescription, state: Mapping[str, Tensor]) -> nn.Module:
    """Build the network of a description and load its weights; every key must match."""
    hint = "It may have been written with another version of timm or torchvision."
    if not is_known(description.backbone):
        problem = (
            f"has backbone {str(description.backbone)[:120]!r}, which the installed timm and torchvision do not list"
        )
        raise MismatchError(path, problem, hint)
    try:
        # Shapes first: a small file must not demand the memory of a large network.
        differences = differences_on_meta(description, state)
        if not differences:
            with SkipRandomInit():
                network = description.build()
            differences = list_differences(network.state_dict(), state)
    except UsageError as error:
        raise MismatchError(path, f"its network cannot be built: {error.problem}") from error
    if differences:
        problem = f"its weights do not fit {description.backbone} with {len(description.classes)} classes"
        raise MismatchError(path, problem, "\n".join([*differences, hint]))
    with as_content_of(path, "model"):
        load_tensors(network, state)
    return network.eval().requires_grad_(False)


def differences_on_meta(description: ModelDescription, state: Mapping[str, Tensor]) -> list[str]:
    """How the weights differ in shape from the network, built on a device without memory. Empty if it cannot be."""
    try:
        with torch.device("meta"):
            return list_differences(description.build().state_dict(), state)
    except UsageError:
        raise
    except Exception:  # some networks read the values of tensors while they are built
        return []


class SkipRandomInit(TorchFunctionMode):
    """Zero parameters instead of drawing random values that load_state_dict would overwrite: VGG16 opens 1 s faster.

    Buffers are initialized as usual, because a state dict need not hold them.
    """

    SKIPPED = frozenset((init.uniform_, init.normal_, init.kaiming_uniform_, Tensor.uniform_, Tensor.normal_))

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        tensor = args[0] if args else (kwargs or {}).get("tensor")
        if func in self.SKIPPED and isinstance(tensor, nn.Parameter):
            tensor.detach().zero_()
            return tensor
        return func(*args, **(kwargs or {}))
