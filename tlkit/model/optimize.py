"""Make a frozen network faster for inference: fold BatchNorm into convolutions, channels-last weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

FOLDING_TOLERANCE = 1e-3
"""Allowed difference, as a fraction of the largest output. Rounding stays far below it, a wrong fold far above."""


def shared_copy(network: nn.Module) -> nn.Module:
    """A frozen deep copy in eval mode that shares the memory of parameters and buffers. Hooks are copied too."""
    memo: dict[int, object] = {id(buffer): buffer for buffer in network.buffers()}
    memo |= {id(parameter): frozen(parameter.detach()) for parameter in network.parameters()}
    return copy.deepcopy(network, memo).eval()


@torch.no_grad()
def optimized_for_inference(network: nn.Module, image_size: tuple[int, int]) -> nn.Module:
    """A faster copy with the same outputs up to rounding: BatchNorm folded into convolutions, channels last.

    image_size: (height, width). Unchanged tensors are shared.
    """
    fast_network = shared_copy(network)
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    example = torch.randn(1, 3, *image_size, generator=torch.Generator().manual_seed(0)).to(device)
    expected = fast_network(example)
    fold_batch_norms(fast_network, example)
    if not close(fast_network(example), expected):  # the network uses a convolution other than by calling it
        fast_network = shared_copy(network)
    for module in fast_network.modules():
        if isinstance(module, nn.Conv2d):  # copies of the weights in the order that the fastest kernels use
            module.weight = frozen(module.weight.detach().contiguous(memory_format=torch.channels_last))
    return fast_network


def close(found: Tensor, expected: Tensor, tolerance: float = FOLDING_TOLERANCE) -> bool:
    """Whether two outputs are equal up to `tolerance` times the largest output."""
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max().clamp_min(1e-6))


def fold_batch_norms(network: nn.Module, example: Tensor) -> None:
    """Fold each BatchNorm into the convolution before it, in place."""
    for conv, norm in foldable_pairs(network, example):
        assert norm.running_mean is not None and norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.weight, conv.bias = frozen(weight), frozen(bias)
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                if child is norm:
                    setattr(parent, name, activation_of(norm))


def foldable_pairs(network: nn.Module, example: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions and the BatchNorms that take their outputs, found by passing an example."""
    producers: dict[int, nn.Conv2d] = {}
    outputs: list[Tensor] = []  # kept alive so that ids stay unique
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    calls: dict[nn.Module, int] = {}

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.BatchNorm2d):
            conv = producers.get(id(inputs[0]))
            if conv is not None:
                pairs.append((conv, module))
        elif isinstance(module, nn.Conv2d):
            producers[id(output)] = module
            outputs.append(output)

    # Other subclasses of Conv2d may change the weights before using them; Conv2dSame only pads.
    handles = [
        module.register_forward_hook(after)
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d) or type(module) is nn.Conv2d or type(module).__name__ == "Conv2dSame"
    ]
    try:
        network(example)
    finally:
        for handle in handles:
            handle.remove()
    return [(conv, norm) for conv, norm in pairs if calls[conv] == calls[norm] == 1 and can_be_one(conv, norm)]


def can_be_one(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    """Whether the BatchNorm has running statistics, on the convolution's device."""
    return norm.running_mean is not None and norm.running_mean.device == conv.weight.device


def activation_of(norm: nn.BatchNorm2d) -> nn.Module:
    """The dropout and activation inside a BatchNorm of timm; an identity for torch's."""
    parts = [getattr(norm, name) for name in ("drop", "act") if isinstance(getattr(norm, name, None), nn.Module)]
    kept = [module for module in parts if not isinstance(module, nn.Identity)]
    return nn.Sequential(*kept) if kept else nn.Identity()


def is_convolutional(network: nn.Module) -> bool:
    """Whether convolutions outnumber linear layers."""
    modules = list(network.modules())
    return sum(isinstance(m, nn.Conv2d) for m in modules) > sum(isinstance(m, nn.Linear) for m in modules)


def frozen(tensor: Tensor) -> nn.Parameter:
    """A parameter that needs no gradient."""
    return nn.Parameter(tensor, requires_grad=False)
