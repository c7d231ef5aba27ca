"""A trained head put back at its place in a plain network, which is what is shipped."""

from __future__ import annotations

import torch
from torch import nn

from tlkit.model.backbones import ClassifierLayers, within


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
