"""Synchronized BatchNorm: statistics over the whole batch, across processes and micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from tlkit.distributed.world import World

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class LocalBatchNorm:
    """Context of torch's BatchNorm, over each rank's own samples.

    A batch with one value per channel (one image, in layers after a global pool) has no variance, so torch raises. A
    layer that meets one uses its running statistics for that batch, and does not update them.

    met_one_value: whether that has happened.
    """

    counts = True

    def __init__(self, module: nn.Module) -> None:
        self.norms = [part for part in module.modules() if isinstance(part, BATCH_NORMS)]
        self.met_one_value = False
        self.frozen: set[nn.Module] = set()
        self.hooks: list[RemovableHandle] = []

    def __enter__(self) -> None:
        for norm in self.norms:
            self.hooks.append(norm.register_forward_pre_hook(self.before))
            self.hooks.append(norm.register_forward_hook(self.after, always_call=True))

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()

    def before(self, norm: nn.Module, inputs: tuple[Tensor]) -> None:
        if norm.training and norm.track_running_stats and inputs[0].numel() == inputs[0].shape[1]:
            norm.training = False
            self.frozen.add(norm)
            self.met_one_value = True

    def after(self, norm: nn.Module, inputs: tuple[Tensor], output: Tensor | None) -> None:
        if norm in self.frozen:
            norm.training = True
            self.frozen.remove(norm)


class SynchronizedBatchNorm(TorchFunctionMode):
    """Context in which every BatchNorm in training mode uses the statistics of all ranks' samples.

    torch's SyncBatchNorm does not run on a CPU and counts the filler of an empty share. This replaces the function
    that the layers call, not the layers.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.met_one_value = False
        """As in LocalBatchNorm, of all ranks together."""
        self.counts = True
        """Whether this rank passes samples; False for a filler that only keeps the collective operations in step."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> object:
        if func is F.batch_norm and self.world.size > 1:
            return self.normalize(BatchNormCall(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))

    def normalize(self, call: BatchNormCall) -> Tensor:
        """torch.nn.functional.batch_norm over the samples of all ranks."""
        if not call.training:
            return F.batch_norm(**vars(call))
        inputs = call.input
        shape = [1, -1, *[1] * (inputs.ndim - 2)]
        dimensions = [0, *range(2, inputs.ndim)]
        values = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        share = float(self.counts)
        count = torch.tensor(share * values.numel() / values.shape[1], dtype=torch.float64, device=values.device)
        count = self.world.all_reduce_sum(count).to(values.dtype)
        if values.numel() <= values.shape[1] and float(count) <= 1:  # float() waits for the GPU, so it comes last
            self.met_one_value = True
            return F.batch_norm(**{**vars(call), "training": False})
        mean = all_reduce_sum(share * values.sum(dimensions), self.world) / count
        centered = values - mean.view(shape)
        variance = all_reduce_sum(share * centered.square().sum(dimensions), self.world) / count
        with torch.no_grad():
            if call.running_mean is not None:
                call.running_mean.lerp_(mean.to(call.running_mean.dtype), call.momentum)
            if call.running_var is not None:
                call.running_var.lerp_((variance * count / (count - 1)).to(call.running_var.dtype), call.momentum)
        outputs = centered * torch.rsqrt(variance + call.eps).view(shape)
        if call.weight is not None:
            outputs = outputs * call.weight.view(shape)
        if call.bias is not None:
            outputs = outputs + call.bias.view(shape)
        return outputs.to(inputs.dtype)


@dataclass
class BatchNormCall:
    """The arguments of torch.nn.functional.batch_norm. input: [B, C, ...]"""

    input: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5


class AllReduceSum(torch.autograd.Function):
    """Sum over all ranks. Every rank's loss depends on every share, so gradients are summed too."""

    @staticmethod
    def forward(context: Any, share: Tensor, world: World) -> Tensor:
        context.world = world
        return world.all_reduce_sum(share)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return context.world.all_reduce_sum(gradients[0]), None


def all_reduce_sum(share: Tensor, world: World) -> Tensor:
    """Differentiable sum of a tensor over all ranks."""
    total: Tensor = AllReduceSum.apply(share, world)
    return total
