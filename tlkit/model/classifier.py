"""Backbone and head as one classifier: what trains, what stays frozen, and back to one plain network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tlkit.errors import MismatchError, UsageError
from tlkit.model.backbone import Backbone
from tlkit.model.backbones import BackboneName, ClassifierLayers, build_network, classifier_layers, within
from tlkit.model.head import Head
from tlkit.model.weights import list_differences, load_tensors, tensors

DEFAULT_HIDDEN = 512


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
        self.checkpoints_gradients = False
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
        if self.checkpoints_gradients:
            self.backbone.keep_activations(not mode)
        return self

    def checkpoint_gradients(self) -> None:
        """While training, keep few activations and compute the others again. Raises UsageError if it cannot."""
        if not self.backbone.keep_activations(False):
            problem = f"{self.backbone.name} does not offer it; most timm networks do"
            raise UsageError("--gradient-checkpointing", problem, "--accumulate N needs less memory with any network.")
        self.checkpoints_gradients = True
        self.train(self.training)

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

    def to_plain_network(self) -> nn.Module:
        """The same function as one plain network: the head, with its standardization folded in, at its place.

        For a linear head it is exactly what timm or torchvision builds with that many classes. Frozen tensors
        are shared with this classifier, not copied.
        """
        if self.checkpoints_gradients:
            self.backbone.keep_activations(True)
        network = put_head(self.backbone.plain_copy(), self.head.folded(), self.backbone.layers)
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
    if positions or len(backbone.layers.output_layers) > 1:
        raise UsageError("--head mlp", f"does not fit {name}, whose classifier is not a single linear layer")
    return Classifier(backbone, Head(backbone.width(), classes, hidden or DEFAULT_HIDDEN, False), unfreeze)


def own_classes(name: BackboneName, network: nn.Module) -> int:
    """How many class outputs a plain network has."""
    layer = network.get_submodule(classifier_layers(name, network, None).output_layers[0])
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    return layer.weight.shape[0]


def build_plain_network(
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
    return build_classifier(name, network, classes, head, hidden, None).to_plain_network()


def put_head(network: nn.Module, layers: nn.Module, where: ClassifierLayers | None) -> nn.Module:
    """Put trained layers at the classifier of a plain network; on top of its outputs where `where` is None."""
    if where is None:
        return nn.Sequential(network, layers)
    for key, parameter in list(network.named_parameters()):
        if within(key, where.auxiliary):
            module, _, last = key.rpartition(".")
            setattr(network.get_submodule(module), last, nn.Parameter(torch.zeros_like(parameter)))
    if isinstance(layers, nn.Linear):
        share_among_leaves(network, layers, where.output_layers)
    else:
        put_mlp(network, layers, where.output_layers)
    return network


def share_among_leaves(network: nn.Module, linear: nn.Linear, output_layers: tuple[str, ...]) -> None:
    """Give each leaf its part of a joint linear layer. Their outputs are averaged, so each part is scaled up."""
    start = 0
    for name in output_layers:
        leaf = network.get_submodule(name)
        assert isinstance(leaf, (nn.Linear, nn.Conv2d))
        width = leaf.weight.shape[1]
        weight = linear.weight.detach()[:, start : start + width] * len(output_layers)
        leaf.weight = nn.Parameter(weight.reshape(leaf.weight.shape).clone())
        if linear.bias is not None:
            leaf.bias = nn.Parameter(linear.bias.detach().clone())
        start += width


def put_mlp(network: nn.Module, layers: nn.Module, output_layers: tuple[str, ...]) -> None:
    """Replace the classifier layer itself by an MLP."""
    assert isinstance(layers, nn.Sequential)
    leaf = network.get_submodule(output_layers[0])
    flatten = [nn.Flatten(1)] if isinstance(leaf, nn.Conv2d) else []
    network.set_submodule(output_layers[0], nn.Sequential(*flatten, *layers))
