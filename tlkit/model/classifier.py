"""Backbone and head: features taken before a network's own classifier, a new head on them, and back to one network."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from tlkit.errors import MismatchError, UsageError
from tlkit.model.backbones import BackboneName, ClassifierLayers, build_network, classifier_layers, within
from tlkit.model.inference import in_precision, quickened, shared_copy
from tlkit.model.weights import list_differences, load_tensors, tensors

DEFAULT_HIDDEN = 512


class Backbone(nn.Module):
    """A plain network seen as a source of features: what enters its classifier, or (stack) its class outputs.

    precision: a key of PRECISIONS; what the network computes in. Features are float32.
    """

    def __init__(self, name: BackboneName, network: nn.Module, layers: ClassifierLayers | None) -> None:
        """layers: the classifier whose input is the feature; None for the network's outputs."""
        super().__init__()
        self.name = name
        self.network = network
        self.layers = layers
        self.precision = "fp32"
        self._entering: dict[str, Tensor] = {}
        for leaf in layers.leaves if layers else ():
            network.get_submodule(leaf).register_forward_pre_hook(partial(self._keep, leaf))

    def _keep(self, leaf: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._entering[leaf] = inputs[0]

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> features [B, D] in float32, or [B, P, D] where the classifier looks at P positions."""
        with in_precision(self.precision, images.device):
            outputs: Tensor = self.network(images)
        if self.layers is None:
            return outputs.float()
        parts = [as_rows(self._entering.pop(leaf)) for leaf in self.layers.leaves]
        return torch.cat(parts, dim=-1).float()

    def quickened(self, image_size: tuple[int, int]) -> Backbone:
        """A copy for extraction alone: the same features up to rounding."""
        copy = Backbone(self.name, quickened(self.network, image_size), self.layers)
        copy.precision = self.precision
        return copy

    def width(self) -> int:
        """Features in a row, D."""
        assert self.layers is not None
        layers = [self.network.get_submodule(leaf) for leaf in self.layers.leaves]
        return sum(layer.weight.shape[1] for layer in layers if isinstance(layer, (nn.Linear, nn.Conv2d)))

    def has_bias(self) -> bool:
        """Whether the classifier has a bias."""
        assert self.layers is not None
        return all(self.network.get_submodule(leaf).bias is not None for leaf in self.layers.leaves)

    def head_names(self) -> tuple[str, ...]:
        """The layers of the network that its weights file need not hold."""
        return (*self.layers.leaves, *self.layers.auxiliary) if self.layers else ()


def as_rows(entering: Tensor) -> Tensor:
    """What enters a classifier, as rows of features: [B, D], or [B, P, D] for maps [B, D, H, W].

    Networks that classify each token [B, P, D] (those of CLIP with attention pooling) keep the first.
    """
    if entering.ndim == 4:
        rows = entering.flatten(2).transpose(1, 2)  # [B, D, H, W] -> [B, P, D]
        return rows[:, 0] if rows.shape[1] == 1 else rows
    return entering[:, 0] if entering.ndim == 3 else entering


class Head(nn.Module):
    """A new classifier on features. It standardises them first, so one learning rate suits every backbone.

    Where features have positions, each position is classified and the positive parts are averaged, as SqueezeNet
    does with its own classifier.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, classes: int, hidden: int | None, positions: bool, bias: bool = True) -> None:
        """hidden: width of an MLP; None for a linear head, which has a bias if the classifier it becomes has one."""
        super().__init__()
        self.positions = positions
        self.layers: nn.Module
        if hidden is None:
            self.layers = nn.Linear(features, classes, bias=bias)
            # Zero is where regularised linear regression starts. A unit bias keeps the ReLU over positions alive.
            nn.init.zeros_(self.layers.weight)
            if bias:
                nn.init.constant_(self.layers.bias, 1.0 if positions else 0.0)
        else:
            self.layers = nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, classes))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def set_standardisation(self, mean: Tensor, std: Tensor) -> None:
        """mean, std [D] of the training features. A feature that never varies is left unscaled.

        Rows come out with a length of 8 on average whatever D is, so that a learning rate means the same for 64
        features as for 2048. Without a bias that could take up a mean, the mean stays.
        """
        constant = std <= 1e-6 * mean.abs().clamp_min(1e-6)
        if self._first().bias is not None:
            self.mean.copy_(mean)
        self.std.copy_(torch.where(constant, torch.ones_like(std), std) * math.sqrt(len(std) / 64))

    def forward(self, features: Tensor) -> Tensor:
        """[B, D] or [B, P, D] -> logits [B, C]"""
        logits: Tensor = self.layers((features.float() - self.mean) / self.std)
        if not self.positions:
            return logits
        return logits.relu().mean(dim=1) if logits.ndim == 3 else logits.relu()

    def folded(self) -> nn.Module:
        """The layers as they act on features that are not standardised; computed in float64."""
        folded = copy.deepcopy(self)
        first = folded._first()
        weight = first.weight.detach().double() / self.std.double()
        first.weight = nn.Parameter(weight.float())
        if first.bias is not None:
            bias = first.bias.detach().double() - weight @ self.mean.double()
            first.bias = nn.Parameter(bias.float())
        return folded.layers

    def _first(self) -> nn.Linear:
        """The layer that the features enter."""
        first = self.layers[0] if isinstance(self.layers, nn.Sequential) else self.layers
        assert isinstance(first, nn.Linear)
        return first


class Classifier(nn.Module):
    """Backbone and head. Only the head trains, and modules of the backbone that are named to be unfrozen."""

    def __init__(self, backbone: Backbone, head: Head, unfreeze: str | None = None) -> None:
        """unfreeze: module names or prefixes of names with commas between, or "all".

        Raises UsageError for a name that fits no module.
        """
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.unfrozen = unfrozen_modules(backbone, unfreeze)
        backbone.requires_grad_(False)
        for name in self.unfrozen:
            for key, parameter in backbone.network.get_submodule(name).named_parameters(prefix=name):
                parameter.requires_grad_(not within(key, backbone.head_names()))
        if unfreeze is not None and not any(parameter.requires_grad for parameter in backbone.parameters()):
            raise UsageError("--unfreeze", f"{unfreeze!r} adds nothing to train in {backbone.name} beside the head")
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> logits [B, C]"""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def train(self, mode: bool = True) -> Classifier:
        """As for any module, but what is frozen stays in eval mode: BatchNorm buffers and dropout do not move."""
        super().train(mode)
        self.backbone.eval()
        for name in self.unfrozen:
            self.backbone.network.get_submodule(name).train(mode)
        return self

    def trainable_parameters(self) -> int:
        """How many numbers train."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def trainable_state(self) -> dict[str, Tensor]:
        """What trains and nothing else: the head, and parameters and buffers of unfrozen modules."""
        state = {f"head.{key}": tensor for key, tensor in self.head.state_dict().items()}
        for key, tensor in self.backbone.network.state_dict().items():
            if self._trains(key):
                state[f"backbone.{key}"] = tensor
        return state

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of trainable_state: all of it or nothing.

        Raises MismatchError for other keys or shapes, TypeError for what is no state dict.
        """
        state = tensors(state)
        differences = list_differences(self.trainable_state(), state)
        if differences:
            raise MismatchError(
                "checkpoint", f"does not fit {self.backbone.name} and this head", "\n".join(differences)
            )
        self.head.load_state_dict({k.removeprefix("head."): v for k, v in state.items() if k.startswith("head.")})
        rest = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
        load_tensors(self.backbone.network, rest, strict=False)

    def _trains(self, key: str) -> bool:
        inside = "" in self.unfrozen or within(key, self.unfrozen)
        return inside and not within(key, self.backbone.head_names())

    def shipped(self) -> nn.Module:
        """The same function as one plain network: the head, with its standardisation folded in, at its place.

        For a linear head it is exactly what timm or torchvision builds with that many classes. Frozen tensors
        are shared with this classifier, not copied.
        """
        network = put_head(shared_copy(self.backbone.network), self.head.folded(), self.backbone.layers)
        return network.eval().requires_grad_(False)


def unfrozen_modules(backbone: Backbone, unfreeze: str | None) -> tuple[str, ...]:
    """The modules that the names mean; "" is the whole network."""
    if unfreeze is None:
        return ()
    if unfreeze == "all":
        return ("",)
    modules = [name for name, _ in backbone.network.named_modules() if name]
    chosen: list[str] = []
    for wanted in unfreeze.split(","):
        found = [wanted] if wanted in modules else [n for n in modules if n.startswith(wanted) and wanted]
        if not found:
            top = ", ".join(name for name in modules if "." not in name)
            raise UsageError("--unfreeze", f"{backbone.name} has no module {wanted!r}", f"At the top it has: {top}.")
        chosen += [name for name in found if not any(name.startswith(f"{c}.") for c in chosen)]
    return tuple(chosen)


def put_head(network: nn.Module, layers: nn.Module, where: ClassifierLayers | None) -> nn.Module:
    """Put trained layers at the classifier of a plain network; on top of its outputs where `where` is None."""
    if where is None:
        return nn.Sequential(network, layers)
    for key, parameter in list(network.named_parameters()):
        if within(key, where.auxiliary):
            module, _, last = key.rpartition(".")
            setattr(network.get_submodule(module), last, nn.Parameter(torch.zeros_like(parameter)))
    if isinstance(layers, nn.Linear):
        share_among_leaves(network, layers, where.leaves)
    else:
        put_mlp(network, layers, where.leaves)
    return network


def share_among_leaves(network: nn.Module, linear: nn.Linear, leaves: tuple[str, ...]) -> None:
    """Give each leaf its part of a joint linear layer. Their outputs are averaged, so each part is scaled up."""
    start = 0
    for name in leaves:
        leaf = network.get_submodule(name)
        assert isinstance(leaf, (nn.Linear, nn.Conv2d))
        width = leaf.weight.shape[1]
        weight = linear.weight.detach()[:, start : start + width] * len(leaves)
        leaf.weight = nn.Parameter(weight.reshape(leaf.weight.shape).clone())
        if linear.bias is not None:
            leaf.bias = nn.Parameter(linear.bias.detach().clone())
        start += width


def put_mlp(network: nn.Module, layers: nn.Module, leaves: tuple[str, ...]) -> None:
    """Replace the classifier layer itself by an MLP."""
    assert isinstance(layers, nn.Sequential)
    leaf = network.get_submodule(leaves[0])
    flatten = [nn.Flatten(1)] if isinstance(leaf, nn.Conv2d) else []
    network.set_submodule(leaves[0], nn.Sequential(*flatten, *layers))


def build_classifier(
    name: BackboneName, network: nn.Module, classes: int, head: str, hidden: int | None, unfreeze: str | None
) -> Classifier:
    """A new head on a plain network that was built for `classes` classes, or for its own under a stacked head.

    Raises UsageError for a head that this network cannot take.
    """
    if head == "stack":
        outputs = own_classes(name, network)
        return Classifier(Backbone(name, network, None), Head(outputs, classes, None, False), unfreeze)
    backbone = Backbone(name, network, classifier_layers(name, network, classes))
    positions = type(network).__name__ == "SqueezeNet"
    if head == "linear":
        linear = Head(backbone.width(), classes, None, positions, bias=backbone.has_bias())
        return Classifier(backbone, linear, unfreeze)
    assert backbone.layers is not None
    if positions or len(backbone.layers.leaves) > 1:
        raise UsageError("--head mlp", f"does not fit {name}, whose classifier is not a single linear layer")
    return Classifier(backbone, Head(backbone.width(), classes, hidden or DEFAULT_HIDDEN, False), unfreeze)


def own_classes(name: BackboneName, network: nn.Module) -> int:
    """How many class outputs a plain network has."""
    layer = network.get_submodule(classifier_layers(name, network, None).leaves[0])
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    return layer.weight.shape[0]


def build_shipped(
    name: BackboneName,
    classes: int,
    head: str,
    hidden: int | None,
    image_size: int | None,
    backbone_classes: int | None,
) -> nn.Module:
    """A network with the structure of Classifier.shipped, to load its state dict into.

    backbone_classes: the class outputs of the backbone itself, under a stacked head.
    """
    network = build_network(name, backbone_classes or classes, image_size)
    if head == "linear":
        return network
    return build_classifier(name, network, classes, head, hidden, None).shipped()
