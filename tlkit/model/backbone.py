"""A network as a source of features: the input of its classifier, or its class outputs."""

from __future__ import annotations

from functools import partial
from threading import get_ident

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tlkit.devices.select import in_precision
from tlkit.model.backbones import BackboneName, ClassifierLayers, within
from tlkit.model.optimize import optimized_for_inference, shared_copy


class Backbone(nn.Module):
    """A network as a source of features: the input of its classifier, or its class outputs (head "stack").

    precision: a key of PRECISIONS in which the network computes. Features are float32.
    """

    def __init__(self, name: BackboneName, network: nn.Module, layers: ClassifierLayers | None) -> None:
        """layers: the classifier whose input is the feature; None for class outputs as features."""
        super().__init__()
        self.name = name
        self.network = network
        self.layers = layers
        self.precision = "fp32"
        # By thread, because DataParallel runs replicas that share it.
        self._classifier_inputs: dict[tuple[int, str], Tensor] = {}
        self._output_layers = layers.output_layers if layers else ()
        self._hooks = self._register_hooks()

    def _register_hooks(self) -> list[RemovableHandle]:
        return [
            self.network.get_submodule(name).register_forward_pre_hook(partial(self._save_input, name))
            for name in self._output_layers
        ]

    def _save_input(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._classifier_inputs[get_ident(), name] = inputs[0]

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> features [B, D], or [B, P, D] if the classifier has P positions, on the images' device."""
        try:
            with in_precision(self.precision, images.device):
                outputs: Tensor = self.network(images)
            if self.layers is not None:
                inputs = [as_rows(self._classifier_inputs[get_ident(), name]) for name in self._output_layers]
                outputs = torch.cat(inputs, dim=-1)
            return outputs.float().to(images.device)
        finally:  # also after an error: a pass that ran out of memory must not keep tensors for the next one
            for name in self._output_layers:
                self._classifier_inputs.pop((get_ident(), name), None)

    def keep_activations(self, wanted: bool) -> bool:
        """Keep activations for the backward pass, or recompute them. Returns False if the network cannot recompute."""
        switch = getattr(self.network, "set_grad_checkpointing", None)
        try:
            if switch is not None:
                switch(enable=not wanted)
        except (AssertionError, NotImplementedError):  # raised by networks that do not support it
            return False
        return switch is not None

    def plain_copy(self) -> nn.Module:
        """A frozen copy of the network without this backbone's hooks, in eval mode; it shares the tensors."""
        for hook in self._hooks:
            hook.remove()
        try:
            return shared_copy(self.network)
        finally:
            self._hooks = self._register_hooks()

    def optimized_for_inference(self, image_size: tuple[int, int]) -> Backbone:
        """A faster copy for feature extraction: the same features up to rounding."""
        copy = Backbone(self.name, optimized_for_inference(self.plain_copy(), image_size), self.layers)
        copy.precision = self.precision
        return copy

    def width(self) -> int:
        """Number of features, D."""
        assert self.layers is not None
        layers = [self.network.get_submodule(name) for name in self.layers.output_layers]
        return sum(layer.weight.shape[1] for layer in layers if isinstance(layer, (nn.Linear, nn.Conv2d)))

    def has_bias(self) -> bool:
        """Whether the classifier has a bias."""
        assert self.layers is not None
        return all(self.network.get_submodule(name).bias is not None for name in self._output_layers)

    def own_parameters(self) -> int:
        """Number of parameters without the classifier."""
        named = self.network.named_parameters()
        return sum(tensor.numel() for name, tensor in named if not within(name, self.head_names()))

    def head_names(self) -> tuple[str, ...]:
        """The layers that the new head replaces, which a weights file need not have."""
        return (*self.layers.output_layers, *self.layers.auxiliary) if self.layers else ()


def as_rows(entering: Tensor) -> Tensor:
    """The input of a classifier as features: [B, D], or [B, P, D] for feature maps [B, D, H, W].

    Of networks that classify each token [B, P, D] (CLIP with attention pooling) the first token is used.
    """
    if entering.ndim == 4:
        rows = entering.flatten(2).transpose(1, 2)  # [B, D, H, W] -> [B, P, D]
        return rows[:, 0] if rows.shape[1] == 1 else rows
    return entering[:, 0] if entering.ndim == 3 else entering
