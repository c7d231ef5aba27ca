"""Synchronized BatchNorm: statistics over the whole batch, across processes and micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tlkit.distributed.world import World
from tlkit.errors import DataError

ONE_VALUE = "the batch has one value per channel, which has no variance for BatchNorm"


class LocalBatchNorm(nullcontext[None]):
    """torch's BatchNorm, over each rank's own samples."""

    counts = True


class SynchronizedBatchNorm(TorchFunctionMode):
    """Context in which every BatchNorm in training mode uses the statistics of all ranks' samples.

    torch's SyncBatchNorm does not run on a CPU and counts the filler of an empty share. This replaces the function
    that the layers call, not the layers.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
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
            raise DataError("--sync-batchnorm", ONE_VALUE, "Use another --batch-size, or a larger --image-size.")
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
