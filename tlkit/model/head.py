"""The heads in one table: the layers of each, their parameter count, and how they go back into the plain network.

To add a head: a row of HEADS, and its name in `tlkit/options/network.py`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tlkit.model.backbones import ClassifierLayers


@dataclass(frozen=True)
class HeadShape:
    """The sizes of a head. positions: whether features are [B, P, D]. bias: whether its first layer has one.

    hidden: the width of its hidden layer, if it has one.
    """

    features: int
    classes: int
    hidden: int | None = None
    positions: bool = False
    bias: bool = True


@dataclass(frozen=True)
class HeadKind:
    """A row of HEADS.

    layers: the module that trains, features [B, D] -> logits [B, C]. fold: the layers as they act on features that are
    not standardized. put: the folded layers as the classifier of a plain network.
    python: how code without tlkit builds the network, from {network}, {inputs} and {classes}.
    on_class_outputs: its input is the backbone's pretrained class outputs; otherwise it replaces the classifier.
    default_hidden: of --hidden, for a head that has a hidden layer. fits_any: also classifiers of several layers or
    positions. same_structure: the plain network is the one that its library builds.
    """

    layers: Callable[[HeadShape], nn.Module]
    fold: Callable[[nn.Module, Tensor, Tensor], nn.Module]
    put: Callable[[nn.Module, nn.Module, ClassifierLayers], None]
    python: str
    on_class_outputs: bool = False
    default_hidden: int | None = None
    fits_any: bool = False
    same_structure: bool = False

    def parameters(self, shape: HeadShape) -> int:
        """The number of parameters that train."""
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in self.layers(shape).parameters())

    def hidden(self, wanted: int | None) -> int | None:
        """The width of the hidden layer: --hidden or the default; None for a head without one."""
        return None if self.default_hidden is None else wanted or self.default_hidden


class Head(nn.Module):
    """A new classifier on features. It standardizes them first, so one learning rate suits every backbone.

    Where features have positions, each position is classified and the positive parts are averaged, as SqueezeNet
    does with its own classifier.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, kind: HeadKind, shape: HeadShape) -> None:
        super().__init__()
        self.kind, self.shape = kind, shape
        self.layers = kind.layers(shape)
        self.register_buffer("mean", torch.zeros(shape.features))
        self.register_buffer("std", torch.ones(shape.features))

    def set_standardization(self, mean: Tensor, std: Tensor) -> None:
        """mean, std [D] of the training features. A constant feature is not scaled.

        Standardized features have length 8 on average for any D, so that a learning rate means the same for 64
        features as for 2048. A head without a bias cannot absorb the mean, so the mean is not subtracted.
        """
        constant = std <= 1e-6 * mean.abs().clamp_min(1e-6)
        if self.shape.bias:
            self.mean.copy_(mean)
        self.std.copy_(torch.where(constant, torch.ones_like(std), std) * math.sqrt(len(std) / 64))

    def classes(self) -> int:
        """The number of classes, C."""
        return self.shape.classes

    def forward(self, features: Tensor) -> Tensor:
        """[B, D] or [B, P, D] -> logits [B, C]"""
        return self.logits(self.layers, self.standardized(features))

    def standardized(self, features: Tensor) -> Tensor:
        """Features as the layers take them."""
        return (features.float() - self.mean) / self.std

    def logits(self, layers: nn.Module, standardized: Tensor) -> Tensor:
        """Logits [B, C] of layers like those of this head."""
        logits: Tensor = layers(standardized)
        if not self.shape.positions:
            return logits
        return logits.relu().mean(dim=1) if logits.ndim == 3 else logits.relu()

    def folded(self) -> nn.Module:
        """A copy of the layers that acts on features that are not standardized."""
        return self.kind.fold(copy.deepcopy(self.layers), self.mean, self.std)


class CrossValidatedHead(nn.Module):
    """A head that trains on all images, and beside it the layers of each fold, which do not see the fold's images."""

    def __init__(self, head: Head, folds: nn.ModuleList) -> None:
        super().__init__()
        self.head = head
        self.folds = folds

    def forward(self, features: Tensor) -> Tensor:
        """[B, D] or [B, P, D] -> logits [B, C, K + 1]: of each of the K folds, and last of the head itself."""
        standardized = self.head.standardized(features)
        every = [*self.folds, self.head.layers]
        return torch.stack([self.head.logits(layers, standardized) for layers in every], dim=-1)


def linear_layers(shape: HeadShape) -> nn.Module:
    """A linear layer that starts at zero, where regularized linear regression starts."""
    linear = nn.Linear(shape.features, shape.classes, bias=shape.bias)
    nn.init.zeros_(linear.weight)
    if shape.bias:  # a bias of one keeps the ReLU over positions alive
        nn.init.constant_(linear.bias, 1.0 if shape.positions else 0.0)
    return linear


def mlp_layers(shape: HeadShape) -> nn.Module:
    assert shape.hidden is not None
    return nn.Sequential(nn.Linear(shape.features, shape.hidden), nn.GELU(), nn.Linear(shape.hidden, shape.classes))


def fold_into_first_linear(layers: nn.Module, mean: Tensor, std: Tensor) -> nn.Module:
    """Fold the standardization into the layer that the features enter; computed in float64."""
    first = layers[0] if isinstance(layers, nn.Sequential) else layers
    assert isinstance(first, nn.Linear)
    weight = first.weight.detach().double() / std.double()
    first.weight = nn.Parameter(weight.float())
    if first.bias is not None:
        first.bias = nn.Parameter((first.bias.detach().double() - weight @ mean.double()).float())
    return layers


def share_among_leaves(network: nn.Module, layers: nn.Module, where: ClassifierLayers) -> None:
    """Give each output layer its part of a linear layer. Their outputs are averaged, so each part is scaled up."""
    assert isinstance(layers, nn.Linear)
    start, bias = 0, layers.bias
    for name in where.output_layers:
        leaf = network.get_submodule(name)
        assert isinstance(leaf, (nn.Linear, nn.Conv2d))
        width = leaf.weight.shape[1]
        weight = layers.weight.detach()[:, start : start + width] * len(where.output_layers)
        leaf.weight = nn.Parameter(weight.reshape(leaf.weight.shape).clone())
        if bias is not None:
            leaf.bias = nn.Parameter(bias.detach().clone())
        start += width


def replace_classifier(network: nn.Module, layers: nn.Module, where: ClassifierLayers) -> None:
    """Put layers in the place of the only output layer."""
    (name,) = where.output_layers
    flatten = [nn.Flatten(1)] if isinstance(network.get_submodule(name), nn.Conv2d) else []
    network.set_submodule(name, nn.Sequential(*flatten, *(layers if isinstance(layers, nn.Sequential) else [layers])))


HEADS: dict[str, HeadKind] = {
    "linear": HeadKind(
        linear_layers, fold_into_first_linear, share_among_leaves, "{network}", fits_any=True, same_structure=True
    ),
    "mlp": HeadKind(
        mlp_layers, fold_into_first_linear, replace_classifier,
        "{network} with its classifier replaced by Sequential(Linear, GELU, Linear)", default_hidden=512,
    ),
    "stack": HeadKind(
        linear_layers, fold_into_first_linear, share_among_leaves,
        "torch.nn.Sequential({network}, torch.nn.Linear({inputs}, {classes}))", on_class_outputs=True,
    ),
}  # fmt: skip
"""By the name that --head and model files have."""
