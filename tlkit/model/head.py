"""The new classifier on features."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn


class Head(nn.Module):
    """A new classifier on features. It standardizes them first, so one learning rate suits every backbone.

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

    def set_standardization(self, mean: Tensor, std: Tensor) -> None:
        """mean, std [D] of the training features. A feature that never varies is left unscaled.

        Rows come out with a length of 8 on average whatever D is, so that a learning rate means the same for 64
        features as for 2048. Without a bias that could take up a mean, the mean stays.
        """
        constant = std <= 1e-6 * mean.abs().clamp_min(1e-6)
        if self._first().bias is not None:
            self.mean.copy_(mean)
        self.std.copy_(torch.where(constant, torch.ones_like(std), std) * math.sqrt(len(std) / 64))

    def classes(self) -> int:
        """How many classes it tells apart, C."""
        last = self.layers[-1] if isinstance(self.layers, nn.Sequential) else self.layers
        assert isinstance(last, nn.Linear)
        return last.out_features

    def forward(self, features: Tensor) -> Tensor:
        """[B, D] or [B, P, D] -> logits [B, C]"""
        logits: Tensor = self.layers((features.float() - self.mean) / self.std)
        if not self.positions:
            return logits
        return logits.relu().mean(dim=1) if logits.ndim == 3 else logits.relu()

    def folded(self) -> nn.Module:
        """The layers as they act on features that are not standardized; computed in float64."""
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
