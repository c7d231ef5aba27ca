"""What a model says about itself, and model.pt: a self-contained file of everything prediction needs."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from tlkit.data.normalize import normalize
from tlkit.data.preprocessing import LARGEST_SIDE, Preprocessing
from tlkit.errors import MismatchError, UsageError
from tlkit.files.artifact import as_content_of, write_artifact
from tlkit.files.description import class_names, text
from tlkit.model.backbones import BackboneName, is_known
from tlkit.model.classifier import build_plain_network
from tlkit.model.weights import list_differences, load_tensors, tensors

MODEL_FORMAT = "tlkit-model"


CHECKPOINT_FORMAT = "tlkit-checkpoint"


@dataclass(frozen=True)
class ModelDescription:
    """Everything but the tensors: enough to build the model again and to feed it.

    weights: "pretrained", "none" or the base name of a weights file. sha256: of the backbone's frozen weights.
    backbone_classes: the class outputs of the backbone itself under a stacked head, else None. trainable: the number
    of parameters that trained.
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

    def to_dict(self) -> dict[str, Any]:
        """The keys of a checkpoint or model.pt, plain types."""
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
        """The network, with random weights."""
        return build_plain_network(
            self.backbone, len(self.classes), self.head, self.hidden, self.image_size, self.backbone_classes
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of to_dict. Raises KeyError, TypeError or ValueError for values that no model has."""
        backbone, head = values["backbone"], values["head"]
        return cls(
            backbone=BackboneName(text(backbone["source"]), text(backbone["name"])),
            weights=text(backbone["weights"]),
            sha256=text(backbone["sha256"]),
            image_size=number_or_none(backbone["image_size"], LARGEST_SIDE),
            backbone_classes=number_or_none(backbone["classes"]),
            head=one_of(text(head["kind"]), HEADS),
            hidden=number_or_none(head["hidden"]),
            trainable=number_or_none(head["trainable"] or None) or 0,
            classes=class_names(values["classes"]),
            preprocessing=Preprocessing.from_dict(values["preprocessing"]),
        )


HEADS = ("linear", "mlp", "stack")


def one_of(value: str, known: Collection[str]) -> str:
    """A text of these. Raises ValueError for another."""
    if value not in known:
        raise ValueError(f"{value[:80]!r} is not known; expected {' or '.join(known)}")
    return value


def number_or_none(value: Any, largest: float = math.inf) -> int | None:
    """A whole number from 1 up, or None. Raises TypeError or ValueError for anything else."""
    if value is not None and type(value) is not int:
        raise TypeError(f"a number was expected, not a {type(value).__name__}")
    if value is not None and not 1 <= value <= largest:
        raise ValueError("a number is too small or too large")
    return value


@dataclass(frozen=True)
class LoadedModel:
    """A model that is whole: network maps normalized images [B, 3, H, W] to logits [B, C]."""

    network: nn.Module
    description: ModelDescription

    @property
    def classes(self) -> tuple[str, ...]:
        return self.description.classes

    @property
    def preprocessing(self) -> Preprocessing:
        return self.description.preprocessing

    def from_pixels(self, network: nn.Module) -> nn.Module:
        """This network, or another of its kind, with the arithmetic that comes before it."""
        return FromPixels(network, self.preprocessing).eval()


class FromPixels(nn.Module):
    """A network that takes pixels: it normalizes them itself."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] -> logits [B, C]"""
        logits: Tensor = self.network(normalize(pixels, self.preprocessing))
        return logits


def write_model(path: str, model: LoadedModel, figures: Mapping[str, Any]) -> None:
    """Commit model.pt. figures: what was measured when it was trained, plain types."""
    content = {
        **model.description.to_dict(),
        "figures": dict(figures),
        "model_state_dict": dict(model.network.state_dict()),
    }
    write_artifact(path, MODEL_FORMAT, content)


def described_model(path: str, values: Mapping[str, Any], state: Mapping[str, Tensor]) -> LoadedModel:
    """The model that a file describes, and whose tensors it holds. Raises DataError or MismatchError naming path."""
    with as_content_of(path, "model"):
        description = ModelDescription.from_dict(values)
        sound = tensors(state)
    require_units(path, sound, len(description.classes), description.hidden, description.backbone_classes)
    return LoadedModel(load_network(path, description, sound), description)


def require_units(path: str, state: Mapping[str, Any], *units: int | None) -> None:
    """Raises DataError for a layer of more units than the file has numbers: a few bytes could ask for terabytes."""
    with as_content_of(path, "model"):
        numbers = sum(tensor.numel() for tensor in state.values())
        if any(count is not None and count > numbers for count in units):
            raise ValueError("it claims more classes or units than it has numbers for")


def load_network(path: str, description: ModelDescription, state: Mapping[str, Tensor]) -> nn.Module:
    """Build the network that a description names and give it the weights, all of them and no others."""
    if not is_known(description.backbone):
        raise MismatchError(
            path,
            f"is built on {str(description.backbone)[:120]!r}, which timm and torchvision do not list here",
            "Another version of timm or torchvision may have written it.",
        )
    try:
        with without_random_numbers(description.backbone.source):
            network = description.build()
    except UsageError as error:
        raise MismatchError(path, f"cannot be built here: {error.problem}") from error
    differences = list_differences(network.state_dict(), state)
    if differences:
        raise MismatchError(
            path,
            f"its weights do not fit {description.backbone} with {len(description.classes)} classes as built here",
            "\n".join([*differences, "Another version of timm or torchvision may have written it."]),
        )
    with as_content_of(path, "model"):
        load_tensors(network, state)
    return network.eval().requires_grad_(False)


DRAWING = {
    "torch.nn.init": (
        "_no_grad_uniform_",
        "_no_grad_normal_",
        "_no_grad_trunc_normal_",
        "kaiming_uniform_",
        "kaiming_normal_",
    ),
    "timm.layers.weight_init": ("_trunc_normal_",),
}
"""Functions that fill a tensor with random numbers and do nothing else. One that is not listed, or has another name in
another version, draws as ever, which takes longer and harms nobody. What these functions call must not be replaced in
their place: some draw again until a number suits them."""


@contextmanager
def without_random_numbers(library: str) -> Iterator[None]:
    """Inside, weights of a library's networks are left as the memory was: a VGG16 is built in 0.1 s instead of 1.5.

    Everything else is computed as ever, for buffers that no file holds must be right.
    """
    importlib.import_module(library)
    places = [
        (sys.modules[module], name) for module, names in DRAWING.items() if module in sys.modules for name in names
    ]
    drawing = [(module, name, getattr(module, name)) for module, name in places if hasattr(module, name)]
    try:
        for module, name, _ in drawing:
            setattr(module, name, leave)
        yield
    finally:
        for module, name, function in drawing:
            setattr(module, name, function)


def leave(tensor: Tensor, *how: Any, **named: Any) -> Tensor:
    """In place of a function that would fill a tensor."""
    return tensor
