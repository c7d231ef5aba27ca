"""One optimizer step: forward, loss, backward, update; in micro-batches if memory runs out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from tlkit.devices.kinds import seed_gpus
from tlkit.devices.memory import OutOfMemoryGuard, release_memory
from tlkit.distributed.world import SINGLE_PROCESS, World
from tlkit.errors import LostRankError
from tlkit.options import FinetuneOptions
from tlkit.training.batch_norm import BATCH_NORMS
from tlkit.training.objective import sample_losses
from tlkit.training.state import TrainingState

BUCKET_VALUES = 1 << 23
"""Gradient values in one all-reduce: enough for few messages, and few enough that the copy takes little memory."""

Outputs = tuple[Tensor, Tensor]
"""Logits [b, C], and the share of b samples in the mean loss of the batch."""

NORMS = (*BATCH_NORMS, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
"""Layers whose running statistics change in the forward pass."""


@dataclass
class Stepper:
    """Optimizer steps of a module on its device. class_weights [C]: factors of the classes in the loss.

    When memory runs out, the state's micro_batch is halved and the step is repeated in more parts, whose gradients add
    up to those of the whole batch. in_one_part: never, because ranks communicate inside the forward pass; running out
    of memory then ends the run.
    """

    module: nn.Module
    state: TrainingState
    class_weights: Tensor
    options: FinetuneOptions
    device: torch.device
    world: World = SINGLE_PROCESS
    in_one_part: bool = False

    def gradients(
        self, inputs: Tensor, labels: Tensor, total: int, step: int, weights: Tensor | None = None
    ) -> tuple[Tensor, float]:
        """Compute the gradients of the mean loss over a batch of `total` samples on all ranks.

        inputs [b, ...], labels [b], weights [b] in the loss, None if all are 1: this rank's share. Returns its logits
        [b, C] and the mean loss of the whole batch. Raises MemoryError if a single sample does not fit, LostRankError
        if it does not fit on another rank.
        """
        before = [buffer.clone() for buffer in self.norm_buffers]
        share = -(-total // self.world.size)  # the largest of any rank: all split theirs into as many parts
        while True:
            size = share if self.in_one_part else min(self.state.micro_batch or share, share)
            guard = OutOfMemoryGuard()
            outputs = self.attempt((inputs, labels, total, weights), step, -(-share // size), guard)
            if outputs is not None:
                logits, loss = outputs
                self.all_reduce_gradients()
                return logits, self.world.all_reduce_sum(loss).item()
            if size == 1 and not guard.found:
                raise LostRankError("memory", "another process ran out of memory")
            if size == 1:
                raise MemoryError(guard.text)
            restore(self.norm_buffers, before)
            release_memory()
            self.state.micro_batch = -(-size // 2)

    def attempt(
        self, batch: tuple[Tensor, Tensor, int, Tensor | None], step: int, parts: int, guard: OutOfMemoryGuard
    ) -> Outputs | None:
        """Run forward and backward over this rank's share, in parts whose gradients are summed.

        None if any rank ran out of memory, which `guard` records.
        """
        seed_dropout(self.options.seed + (self.world.rank << 40), step)
        self.state.optimizer.zero_grad()
        outputs: list[Outputs] = []
        inputs, labels, total, weights = batch
        split_weights = [None] * parts if weights is None else weights.tensor_split(parts)
        # No communication before all ranks have their gradients: a rank out of memory would leave the others waiting.
        with guard:
            # Parts of about equal size; of fewer samples than parts, some are empty.
            split = zip(inputs.tensor_split(parts), labels.tensor_split(parts), split_weights, strict=True)
            for part, part_labels, part_weights in split:
                if not len(part_labels):
                    continue
                logits, loss = self.forward(part, part_labels, total, part_weights)
                counted = [buffer.clone() for buffer in self.recomputed_norm_buffers]
                self.state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                restore(self.recomputed_norm_buffers, counted)  # norm statistics count each sample once
                outputs.append((logits.detach(), loss.detach()))
        if guard.found and self.in_one_part:
            raise MemoryError(guard.text)
        if not self.in_one_part and self.on_any_rank(guard.found):
            return None
        if len(outputs) == 1:
            return outputs[0]
        return torch.cat([logits for logits, _ in outputs]), torch.stack([loss for _, loss in outputs]).sum()

    def all_reduce_gradients(self) -> None:
        """Sum the gradients over all ranks, so that each has those of the whole batch."""
        if self.world.size == 1:
            return
        trained = [parameter for group in self.state.optimizer.param_groups for parameter in group["params"]]
        for bucket in buckets([parameter.grad for parameter in trained if parameter.grad is not None]):
            joined = self.world.all_reduce_sum(torch.cat([gradient.flatten() for gradient in bucket]))
            for gradient, summed in zip(bucket, torch.split(joined, [g.numel() for g in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def on_any_rank(self, found: bool) -> bool:
        """Whether `found` is true on any rank. All ranks call this together."""
        return found if self.world.size == 1 else bool(self.world.all_reduce_sum(torch.tensor(float(found))).item())

    @cached_property
    def norm_buffers(self) -> list[Tensor]:
        """The statistics of norm layers in training mode, which a forward pass changes."""
        norms = (part for part in self.module.modules() if part.training and isinstance(part, NORMS))
        return [buffer for norm in norms for buffer in norm.buffers()]

    @cached_property
    def recomputed_norm_buffers(self) -> list[Tensor]:
        """Norm buffers that the backward pass changes again: gradient checkpointing repeats the forward pass."""
        again = any(getattr(part, "grad_checkpointing", False) for part in self.module.modules())
        return self.norm_buffers if again else []

    def forward(self, inputs: Tensor, labels: Tensor, total: int, weights: Tensor | None) -> Outputs:
        """Logits and loss of some samples, with their autograd graph."""
        inputs, labels = inputs.to(self.device), labels.to(self.device)
        logits = self.module(inputs)  # [b, ...] -> [b, C]
        losses = sample_losses(logits, labels, self.class_weights, self.options.label_smoothing)
        if weights is not None:
            losses = losses * weights.to(self.device).reshape(-1, *[1] * (losses.dim() - 1))
        return logits, losses.sum() / total

    def update(self, learning_rate: float) -> None:
        """Update the parameters. learning_rate: multiplied by the scale of each parameter group.

        If gradients overflow in fp16, the step is skipped and the loss scale is lowered.
        """
        for group in self.state.optimizer.param_groups:
            group["lr"] = learning_rate * group["scale"]
        self.state.scaler.step(self.state.optimizer)
        self.state.scaler.update()


def buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Group gradients of one dtype and device into buckets of at most BUCKET_VALUES."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        like = bucket and (bucket[0].dtype, bucket[0].device) == (gradient.dtype, gradient.device)
        if bucket and not (like and sum(g.numel() for g in bucket) + gradient.numel() <= BUCKET_VALUES):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def restore(buffers: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy earlier values back into buffers."""
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)


def seed_dropout(seed: int, step: int) -> None:
    """Make random numbers inside a step a function of (seed, step)."""
    # default_generator costs microseconds where torch.manual_seed, which walks all CUDA devices, costs 200.
    mixed = (seed * 0x9E3779B97F4A7C15 + step) % 2**63
    torch.default_generator.manual_seed(mixed)
    seed_gpus(mixed)
