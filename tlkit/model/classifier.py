"""Backbone and head as one classifier, of which a part trains; and as one plain network."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tlkit.errors import MismatchError, UsageError
from tlkit.model.backbone import Backbone
from tlkit.model.backbones import BackboneName, ClassifierLayers, build_network, classifier_layers, within
from tlkit.model.head import HEADS, CrossValidatedHead, Head, HeadShape
from tlkit.model.state_dict import list_differences, load_tensors, tensors

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Classifier(nn.Module):
    """Backbone and head. Only the head and the unfrozen modules of the backbone train."""

    def __init__(self, backbone: Backbone, head: Head, unfreeze: str | None = None) -> None:
        """unfreeze: comma-separated module names or prefixes, or "all".

        Raises UsageError for a name that matches no module.
        """
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.folds = nn.ModuleList()
        self.unfrozen = unfrozen_modules(backbone, unfreeze)
        self.checkpoints_gradients = False
        self.trains_batchnorm = True
        backbone.requires_grad_(False)
        for name in self.unfrozen:
            for key, parameter in backbone.network.get_submodule(name).named_parameters(prefix=name):
                parameter.requires_grad_(not within(key, backbone.head_names()))
        if unfreeze is not None and not any(parameter.requires_grad for parameter in backbone.parameters()):
            raise UsageError("--unfreeze", f"{unfreeze!r} adds no trainable parameters of {backbone.name} to the head")
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> logits [B, C]"""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def train(self, mode: bool = True) -> Classifier:
        """As for any module, but frozen modules stay in eval mode: no BatchNorm updates, no dropout; and so does every
        BatchNorm after freeze_batchnorm."""
        super().train(mode)
        self.backbone.eval()
        for name in self.unfrozen:
            module = self.backbone.network.get_submodule(name).train(mode)
            for norm in module.modules() if not self.trains_batchnorm else ():
                if isinstance(norm, BATCH_NORMS):
                    norm.eval()
        if self.checkpoints_gradients:
            self.backbone.keep_activations(not mode)
        return self

    def freeze_batchnorm(self) -> None:
        """Keep the pretrained statistics of BatchNorm, also in unfrozen modules; its weights and biases train.

        Statistics of small batches of few images are much worse than those of pretraining.
        """
        self.trains_batchnorm = False
        self.train(self.training)

    def cross_validate(self, folds: int) -> None:
        """Train, beside the head, the layers of each fold, which start as those of the head. They are not exported."""
        self.folds = nn.ModuleList(copy.deepcopy(self.head.layers) for _ in range(folds))

    @property
    def trained_head(self) -> nn.Module:
        """The module that trains on features: the head, with the layers of the folds if there are any."""
        return CrossValidatedHead(self.head, self.folds) if len(self.folds) else self.head

    def checkpoint_gradients(self) -> None:
        """Recompute activations in the backward pass to save memory. Raises UsageError if the network cannot."""
        if not self.backbone.keep_activations(False):
            problem = f"{self.backbone.name} does not support it; most timm networks do"
            raise UsageError("--gradient-checkpointing", problem, "--accumulate 2 needs less memory with any network.")
        self.checkpoints_gradients = True
        self.train(self.training)

    def trainable_parameters(self) -> int:
        """The number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def trainable_state(self) -> dict[str, Tensor]:
        """The tensors that train: of the head, of the folds, and parameters and buffers of unfrozen modules."""
        state = {f"head.{key}": tensor for key, tensor in self.head.state_dict().items()}
        state |= {f"folds.{key}": tensor for key, tensor in self.folds.state_dict().items()}
        for key, tensor in self.backbone.network.state_dict().items():
            unfrozen = "" in self.unfrozen or within(key, self.unfrozen)
            if unfrozen and not within(key, self.backbone.head_names()):
                state[f"backbone.{key}"] = tensor
        return state

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of trainable_state: all of it or nothing, but for folds that this classifier does not train.

        Raises MismatchError for other keys or shapes, TypeError for a value that is not a state dict.
        """
        state = {k: v for k, v in tensors(state).items() if len(self.folds) or not k.startswith("folds.")}
        differences = list_differences(self.trainable_state(), state)
        if differences:
            raise MismatchError(
                "checkpoint", f"does not fit {self.backbone.name} and this head", "\n".join(differences)
            )
        self.head.load_state_dict({k.removeprefix("head."): v for k, v in state.items() if k.startswith("head.")})
        self.folds.load_state_dict({k.removeprefix("folds."): v for k, v in state.items() if k.startswith("folds.")})
        rest = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
        load_tensors(self.backbone.network, rest, strict=False)

    def to_plain_network(self) -> nn.Module:
        """One plain network with the same outputs: the head, standardization folded in, replaces the classifier.

        With a linear head it is the network that timm or torchvision builds for that many classes. Frozen tensors
        are shared with this classifier, not copied.
        """
        if self.checkpoints_gradients:
            self.backbone.keep_activations(True)
        network = put_head(self.backbone.plain_copy(), self.head, self.backbone.layers)
        return network.eval().requires_grad_(False)


def unfrozen_modules(backbone: Backbone, unfreeze: str | None) -> tuple[str, ...]:
    """The modules that --unfreeze names; "" is the whole network."""
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
            raise UsageError(
                "--unfreeze", f"{backbone.name} has no module {wanted!r}", f"Its top-level modules: {top}."
            )
        chosen += [name for name in found if not any(name.startswith(f"{c}.") for c in chosen)]
    return tuple(chosen)


def build_classifier(
    name: BackboneName, network: nn.Module, classes: int, head: str, hidden: int | None, unfreeze: str | None
) -> Classifier:
    """A new head on a plain network built for `classes` classes; for its pretrained classes with a stacked head.

    Raises UsageError for a head that does not fit this network.
    """
    kind = HEADS[head]
    if kind.on_class_outputs:
        shape = HeadShape(own_classes(name, network), classes, kind.hidden(hidden))
        return Classifier(Backbone(name, network, None), Head(kind, shape), unfreeze)
    layers = classifier_layers(name, network, classes)
    backbone = Backbone(name, network, layers)
    positions = type(network).__name__ == "SqueezeNet"
    if not kind.fits_any and (positions or len(layers.output_layers) > 1):
        raise UsageError(f"--head {head}", f"does not fit {name}, whose classifier is not a single linear layer")
    bias = backbone.has_bias() or not kind.same_structure
    shape = HeadShape(backbone.width(), classes, kind.hidden(hidden), positions, bias)
    return Classifier(backbone, Head(kind, shape), unfreeze)


def own_classes(name: BackboneName, network: nn.Module) -> int:
    """The number of class outputs of a plain network."""
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
    """A network with the structure of Classifier.to_plain_network, to load its state dict into.

    backbone_classes: the class outputs of the backbone itself, with a stacked head.
    """
    network = build_network(name, backbone_classes or classes, image_size)
    if HEADS[head].same_structure:
        return network
    return build_classifier(name, network, classes, head, hidden, None).to_plain_network()


def put_head(network: nn.Module, head: Head, where: ClassifierLayers | None) -> nn.Module:
    """Put trained layers in place of the classifier of a plain network; on top of its outputs where `where` is None."""
    if where is None:
        return nn.Sequential(network, head.folded())
    for key, parameter in list(network.named_parameters()):
        if within(key, where.auxiliary):
            module, _, last = key.rpartition(".")
            setattr(network.get_submodule(module), last, nn.Parameter(torch.zeros_like(parameter)))
    head.kind.put(network, head.folded(), where)
    return network
