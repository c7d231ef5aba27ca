"""BatchNorm in training over the whole batch, wherever its samples are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tlkit.distributed.world import World
from tlkit.errors import DataError

ONE_VALUE = "BatchNorm finds one value for each channel in a batch, which has no variance"


class LocalBatchNorm(nullcontext[None]):
    """BatchNorm as it is: over what each rank has."""

    counts = True


class SynchronizedBatchNorm(TorchFunctionMode):
    """Inside, every BatchNorm that trains takes mean and variance over the samples of all ranks, however many each has.

    In place of torch's SyncBatchNorm, which refuses a CPU, and counts what only fills up an empty share. Layers stay as
    they are: it is the function under them that is another.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.counts = True
        """Whether what this rank passes through are samples; otherwise they only keep it company with the others."""

    def __torch_function__(
        self,
        function: Any,
        types: Iterable[type],
        arguments: tuple[Any, ...] = (),
        named: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is F.batch_norm and self.world.size > 1:
            return self.normalize(*arguments, **(named or {}))
        return function(*arguments, **(named or {}))

    def normalize(
        self,
        inputs: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """As torch.nn.functional.batch_norm. inputs [B, C, ...]"""
        if not training:
            return F.batch_norm(inputs, running_mean, running_var, weight, bias, False, momentum, eps)
        shape = [1, -1, *[1] * (inputs.ndim - 2)]
        dimensions = [0, *range(2, inputs.ndim)]
        values = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        share = float(self.counts)
        count = torch.tensor(share * values.numel() / values.shape[1], dtype=torch.float64, device=values.device)
        count = self.world.all_reduce_sum(count).to(values.dtype)
        if values.numel() <= values.shape[1] and float(count) <= 1:  # asked where it may be: to ask waits for a GPU
            raise DataError("--sync-batchnorm", ONE_VALUE, "Give another --batch-size, or a larger --image-size.")
        mean = all_reduce_sum(share * values.sum(dimensions), self.world) / count
        centered = values - mean.view(shape)
        variance = all_reduce_sum(share * centered.square().sum(dimensions), self.world) / count
        with torch.no_grad():
            if running_mean is not None:
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            if running_var is not None:
                running_var.lerp_((variance * count / (count - 1)).to(running_var.dtype), momentum)
        outputs = centered * torch.rsqrt(variance + eps).view(shape)
        if weight is not None:
            outputs = outputs * weight.view(shape)
        if bias is not None:
            outputs = outputs + bias.view(shape)
        return outputs.to(inputs.dtype)


class AllReduceSum(torch.autograd.Function):
    """The sum over all ranks. As every rank's loss depends on it, so does the gradient of each share."""

    @staticmethod
    def forward(context: Any, share: Tensor, world: World) -> Tensor:
        context.world = world
        return world.all_reduce_sum(share)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return context.world.all_reduce_sum(gradients[0]), None


def all_reduce_sum(share: Tensor, world: World) -> Tensor:
    """The sum of every rank's share, differentiable."""
    total: Tensor = AllReduceSum.apply(share, world)
    return total
