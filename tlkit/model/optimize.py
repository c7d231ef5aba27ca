"""A network made quick for images that only pass through it: BatchNorm folded, channels last, shorter numbers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from tlkit.model.pipeline.split import ToDeviceHook

FOLDING_TOLERANCE = 1e-3
"""Of the largest output: rounding stays far below, a convolution folded wrongly far above."""


def shared_copy(network: nn.Module) -> nn.Module:
    """The same modules once more, frozen, in eval mode; parameters and buffers share their memory.

    Of hooks, it has those that move activations to a stage's device.
    """
    memo: dict[int, object] = {id(buffer): buffer for buffer in network.buffers()}
    memo |= {id(parameter): frozen(parameter.detach()) for parameter in network.parameters()}
    hooks = {module: module._forward_pre_hooks.copy() for module in network.modules() if module._forward_pre_hooks}
    try:
        for module in hooks:  # others would be copied with all that they hold
            for key in [key for key, hook in hooks[module].items() if not isinstance(hook, ToDeviceHook)]:
                del module._forward_pre_hooks[key]
        return copy.deepcopy(network, memo).eval()
    finally:
        for module, kept in hooks.items():
            module._forward_pre_hooks.clear()
            module._forward_pre_hooks.update(kept)


@torch.no_grad()
def optimized_for_inference(network: nn.Module, image_size: tuple[int, int]) -> nn.Module:
    """A copy that gives the same outputs up to rounding: BatchNorm folded into convolutions, channels last.

    image_size: (height, width). Tensors that stay as they are, are shared.
    """
    quick = shared_copy(network)
    place = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(1, 3, *image_size, generator=generator).to(place)
    expected = quick(example)
    fold_batch_norms(quick, example)
    if not close(quick(example), expected):  # a network that uses a convolution in a way that a call does not show
        quick = shared_copy(network)
    lay_channels_last(quick)
    return quick


def close(found: Tensor, expected: Tensor, tolerance: float = FOLDING_TOLERANCE) -> bool:
    """Whether two outputs differ by rounding at most. tolerance: of the largest output."""
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max().clamp_min(1e-6))


def fold_batch_norms(network: nn.Module, example: Tensor) -> None:
    """Fold each BatchNorm into the convolution whose output it takes, in place."""
    for conv, norm in following_norms(network, example):
        assert norm.running_mean is not None and norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.weight, conv.bias = frozen(weight), frozen(bias)
        replace_module(network, norm, what_follows(norm))


def following_norms(network: nn.Module, example: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Pairs of a convolution and the BatchNorm that takes its output, as one pass of an example shows them."""
    producers: dict[int, nn.Conv2d] = {}
    outputs: list[Tensor] = []  # kept alive, so that no two share an address
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

    with watched(network, after):
        network(example)
    return [(conv, norm) for conv, norm in pairs if calls[conv] == calls[norm] == 1 and can_be_one(conv, norm)]


def can_be_one(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    """Whether the numbers of a BatchNorm can go into the convolution before it: it has some, on the same device, and
    no other stage begins with it."""
    begins_stage = any(isinstance(hook, ToDeviceHook) for hook in norm._forward_pre_hooks.values())
    return norm.running_mean is not None and norm.running_mean.device == conv.weight.device and not begins_stage


@contextmanager
def watched(network: nn.Module, after: object) -> Iterator[None]:
    """Call `after` for each convolution and BatchNorm of the usual kinds that a pass calls."""
    # Subclasses of Conv2d may do something to the weights before they use them; only padding is known to be harmless.
    wanted = [
        module
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d) or type(module) is nn.Conv2d or type(module).__name__ == "Conv2dSame"
    ]
    handles = [module.register_forward_hook(after) for module in wanted]  # type: ignore[arg-type]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def what_follows(norm: nn.BatchNorm2d) -> nn.Module:
    """What a BatchNorm does beside normalizing: timm's have an activation of their own."""
    own = [getattr(norm, name) for name in ("drop", "act") if isinstance(getattr(norm, name, None), nn.Module)]
    useful = [module for module in own if not isinstance(module, nn.Identity)]
    return nn.Sequential(*useful) if useful else nn.Identity()


def replace_module(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` wherever `old` is a child."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)


def lay_channels_last(network: nn.Module) -> None:
    """Convolution weights as the quickest kernels want them; the network's other users keep theirs."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight = frozen(module.weight.detach().contiguous(memory_format=torch.channels_last))


def is_convolutional(network: nn.Module) -> bool:
    """Whether most layers are convolutions; matrices of transformers onnxruntime multiplies no quicker than torch."""
    modules = list(network.modules())
    return sum(isinstance(m, nn.Conv2d) for m in modules) > sum(isinstance(m, nn.Linear) for m in modules)


def frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
