"""A plain network seen as a source of features: what enters its own classifier, or its class outputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from threading import get_ident

import torch
from torch import Tensor, nn

from tlkit.devices.select import in_precision
from tlkit.model.backbones import BackboneName, ClassifierLayers, within
from tlkit.model.optimize import optimized_for_inference
from tlkit.model.pipeline.split import Stage, divide


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
        self._classifier_inputs: dict[tuple[int, str], Tensor] = {}  # by thread: DataParallel runs copies that share it
        for leaf in layers.output_layers if layers else ():
            network.get_submodule(leaf).register_forward_pre_hook(partial(self._save_input, leaf))

    def _save_input(self, leaf: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._classifier_inputs[get_ident(), leaf] = inputs[0]

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> features [B, D] in float32, or [B, P, D] where the classifier looks at P positions.

        They are on the device of the images, wherever the network has its last layers.
        """
        try:
            with in_precision(self.precision, images.device):
                outputs: Tensor = self.network(images)
            if self.layers is not None:
                outputs = torch.cat(
                    [as_rows(self._classifier_inputs[get_ident(), n]) for n in self.layers.output_layers], dim=-1
                )
            return outputs.float().to(images.device)
        finally:  # a pass that ran out of memory would hold what it had until the next one has run out too
            for leaf in self.layers.output_layers if self.layers else ():
                self._classifier_inputs.pop((get_ident(), leaf), None)

    def divide(
        self, devices: Sequence[torch.device], image_size: tuple[int, int], split_at: Sequence[str] = ()
    ) -> list[Stage]:
        """Lay the network on several devices, a stage on each. Raises UsageError if it cannot be divided so."""
        return divide(self.network, str(self.name), devices, image_size, split_at)

    def keep_activations(self, wanted: bool) -> bool:
        """Keep activations for the gradients, or compute them again. Whether this network can do either."""
        switch = getattr(self.network, "set_grad_checkpointing", None)
        try:
            if switch is not None:
                switch(enable=not wanted)
        except (AssertionError, NotImplementedError):  # how networks say that they cannot
            return False
        return switch is not None

    def quickened(self, image_size: tuple[int, int]) -> Backbone:
        """A copy for extraction alone: the same features up to rounding."""
        copy = Backbone(self.name, optimized_for_inference(self.network, image_size), self.layers)
        copy.precision = self.precision
        return copy

    def width(self) -> int:
        """Features in a row, D."""
        assert self.layers is not None
        layers = [self.network.get_submodule(leaf) for leaf in self.layers.output_layers]
        return sum(layer.weight.shape[1] for layer in layers if isinstance(layer, (nn.Linear, nn.Conv2d)))

    def has_bias(self) -> bool:
        """Whether the classifier has a bias."""
        assert self.layers is not None
        return all(self.network.get_submodule(leaf).bias is not None for leaf in self.layers.output_layers)

    def own_parameters(self) -> int:
        """How many numbers lie before the classifier that is taken off."""
        named = self.network.named_parameters()
        return sum(tensor.numel() for name, tensor in named if not within(name, self.head_names()))

    def head_names(self) -> tuple[str, ...]:
        """The layers of the network that its weights file need not hold."""
        return (*self.layers.output_layers, *self.layers.auxiliary) if self.layers else ()


def as_rows(entering: Tensor) -> Tensor:
    """What enters a classifier, as rows of features: [B, D], or [B, P, D] for maps [B, D, H, W].

    Networks that classify each token [B, P, D] (those of CLIP with attention pooling) keep the first.
    """
    if entering.ndim == 4:
        rows = entering.flatten(2).transpose(1, 2)  # [B, D, H, W] -> [B, P, D]
        return rows[:, 0] if rows.shape[1] == 1 else rows
    return entering[:, 0] if entering.ndim == 3 else entering
