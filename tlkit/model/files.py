"""What a model says about itself, and model.pt: a self-contained file of everything prediction needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from tlkit.artifact import write_artifact
from tlkit.data.batches import normalise
from tlkit.data.preprocessing import Preprocessing
from tlkit.errors import DataError, MismatchError
from tlkit.model.backbones import BackboneName
from tlkit.model.classifier import build_shipped
from tlkit.model.skeleton import without_random_numbers
from tlkit.model.weights import load_tensors

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
        return build_shipped(
            self.backbone, len(self.classes), self.head, self.hidden, self.image_size, self.backbone_classes
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of to_dict."""
        backbone, head = values["backbone"], values["head"]
        return cls(
            backbone=BackboneName(backbone["source"], backbone["name"]),
            weights=backbone["weights"],
            sha256=backbone["sha256"],
            image_size=backbone["image_size"],
            backbone_classes=backbone["classes"],
            head=head["kind"],
            hidden=head["hidden"],
            trainable=head["trainable"],
            classes=tuple(values["classes"]),
            preprocessing=Preprocessing.from_dict(values["preprocessing"]),
        )


@dataclass(frozen=True)
class LoadedModel:
    """A model that is whole: network maps normalised images [B, 3, H, W] to logits [B, C]."""

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
    """A network that takes pixels: it normalises them itself."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] -> logits [B, C]"""
        logits: Tensor = self.network(normalise(pixels, self.preprocessing))
        return logits


def write_model(path: str, model: LoadedModel, figures: Mapping[str, Any]) -> None:
    """Commit model.pt. figures: what was measured when it was trained, plain types."""
    content = {
        **model.description.to_dict(),
        "figures": dict(figures),
        "model_state_dict": dict(model.network.state_dict()),
    }
    write_artifact(path, MODEL_FORMAT, content)


def model_from_content(path: str, content: Mapping[str, Any]) -> LoadedModel:
    """The model that the content of a model.pt holds. Raises DataError or MismatchError naming path."""
    try:
        description = ModelDescription.from_dict(content)
        state = content["model_state_dict"]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(path, f"is not a complete model: {error!r}") from error
    return LoadedModel(load_network(path, description, state), description)


def load_network(path: str, description: ModelDescription, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """Build the network that a description names and give it the weights, all of them and no others."""
    with without_random_numbers(description.backbone.source):
        network = description.build()
    try:
        load_tensors(network, state)
    except RuntimeError as error:
        raise MismatchError(
            path,
            f"its weights do not fit {description.backbone} as built here",
            f"Another version of timm or torchvision may have written it. {str(error).splitlines()[-1].strip()}",
        ) from error
    return network.eval().requires_grad_(False)
