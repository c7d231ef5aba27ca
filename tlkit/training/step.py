"""One optimizer step over one batch: forward, loss, backward, update; in parts where it does not fit into memory."""

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
from tlkit.training.objective import sample_losses
from tlkit.training.state import TrainingState

MESSAGE = 1 << 23
"""Numbers that ranks add up at once: so many that few messages are sent, so few that a copy needs little memory."""


Passed = tuple[Tensor, Tensor]
"""Logits [b, C], and the part that b samples have in the mean loss of the batch."""

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
"""Layers whose running statistics change in the forward pass."""


@dataclass
class Stepper:
    """Steps of a module on its device. class_weights [C]: factors of each class in the loss.

    The state's micro_batch is how many samples pass together. When memory is used up it is halved, and the step is done
    again from its beginning: in more parts, whose gradients add up to those of the whole batch. in_one_part: not where
    ranks need each other inside a pass; there memory that is used up ends the run.
    """

    module: nn.Module
    state: TrainingState
    class_weights: Tensor
    label_smoothing: float
    seed: int
    device: torch.device
    world: World = SINGLE_PROCESS
    in_one_part: bool = False

    def gradients(self, inputs: Tensor, labels: Tensor, total: int, step: int) -> tuple[Tensor, float]:
        """Compute the gradients of the mean loss over a batch of `total` samples on all ranks.

        inputs [b, ...], labels [b]: this rank's share of the batch. Returns its logits [b, C] and the mean loss over
        the whole batch. Raises MemoryError if one sample alone is too much, LostRankError if it is so on others alone.
        """
        before = [buffer.clone() for buffer in self.norm_buffers]
        share = -(-total // self.world.size)  # that of any rank at most: all divide theirs into as many parts
        while True:
            size = share if self.in_one_part else min(self.state.micro_batch or share, share)
            shortage = OutOfMemoryGuard()
            passed = self.attempt(inputs, labels, total, step, -(-share // size), shortage)
            if passed is not None:
                logits, loss = passed
                self.add_up_over_ranks()
                return logits, self.world.all_reduce_sum(loss).item()
            if size == 1 and not shortage.found:
                raise LostRankError("memory", "is used up on another rank")
            if size == 1:
                raise MemoryError(shortage.text)
            restore(self.norm_buffers, before)
            release_memory()
            self.state.micro_batch = -(-size // 2)

    def attempt(
        self, inputs: Tensor, labels: Tensor, total: int, step: int, parts: int, shortage: OutOfMemoryGuard
    ) -> Passed | None:
        """Pass a rank's share in parts, and leave the sum of their gradients. None if any rank's memory was used up."""
        seed_dropout(self.seed + (self.world.rank << 40), step)
        self.state.optimizer.zero_grad()
        passed: list[Passed] = []
        # Ranks meet only when all have their gradients: one that is short of memory before would leave others waiting.
        with shortage:
            for part, own in divided(inputs, labels, parts):
                logits, loss = self.forward(part, own, total)
                self.backward(loss)
                passed.append((logits.detach(), loss.detach()))
        if shortage.found and self.in_one_part:
            raise MemoryError(shortage.text)
        if not self.in_one_part and self.on_any_rank(shortage.found):
            return None
        if len(passed) == 1:
            return passed[0]
        return torch.cat([logits for logits, _ in passed]), torch.stack([loss for _, loss in passed]).sum()

    def add_up_over_ranks(self) -> None:
        """Give every rank the gradients of the whole batch."""
        if self.world.size == 1:
            return
        trained = [parameter for group in self.state.optimizer.param_groups for parameter in group["params"]]
        for bucket in buckets([parameter.grad for parameter in trained if parameter.grad is not None]):
            joined = self.world.all_reduce_sum(torch.cat([gradient.flatten() for gradient in bucket]))
            for gradient, summed in zip(bucket, torch.split(joined, [g.numel() for g in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def on_any_rank(self, found: bool) -> bool:
        """Whether something was found on this rank or another. All must ask together."""
        return found if self.world.size == 1 else bool(self.world.all_reduce_sum(torch.tensor(float(found))).item())

    @cached_property
    def norm_buffers(self) -> list[Tensor]:
        """What a pass changes beside gradients: the statistics of norms that train."""
        norms = (part for part in self.module.modules() if part.training and isinstance(part, NORMS))
        return [buffer for norm in norms for buffer in norm.buffers()]

    @cached_property
    def recomputed_norm_buffers(self) -> list[Tensor]:
        """Those that move again in the backward pass, as layers keep no activations for it but compute them twice."""
        again = any(getattr(part, "grad_checkpointing", False) for part in self.module.modules())
        return self.norm_buffers if again else []

    def forward(self, inputs: Tensor, labels: Tensor, total: int) -> Passed:
        """Logits and loss of some samples, with the graph that backward needs."""
        inputs, labels = inputs.to(self.device), labels.to(self.device)
        logits = self.module(inputs)  # [b, ...] -> [b, C]
        losses = sample_losses(logits, labels, self.class_weights, self.label_smoothing)
        return logits, losses.sum() / total

    def backward(self, loss: Tensor) -> None:
        """Add the gradients. Statistics count each sample once."""
        counted = [buffer.clone() for buffer in self.recomputed_norm_buffers]
        self.state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        restore(self.recomputed_norm_buffers, counted)

    def update(self, learning_rate: float) -> None:
        """Move the parameters along their gradients. learning_rate: before each group's own scale.

        Gradients that fp16 could not hold are left out, and the next ones scaled less.
        """
        for group in self.state.optimizer.param_groups:
            group["lr"] = learning_rate * group["scale"]
        self.state.scaler.step(self.state.optimizer)
        self.state.scaler.update()


def divided(inputs: Tensor, labels: Tensor, parts: int) -> list[tuple[Tensor, Tensor]]:
    """A batch in so many parts, as even as they can be; none is empty."""
    if parts == 1:
        return [(inputs, labels)]
    both = zip(inputs.tensor_split(parts), labels.tensor_split(parts), strict=True)
    return [(part, own) for part, own in both if len(own)]


def buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one kind and device together, so many as a message may hold."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        like = bucket and (bucket[0].dtype, bucket[0].device) == (gradient.dtype, gradient.device)
        if bucket and not (like and sum(g.numel() for g in bucket) + gradient.numel() <= MESSAGE):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def restore(buffers: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Give buffers, which need no gradients, the values they had."""
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)


def seed_dropout(seed: int, step: int) -> None:
    """Make what is random inside a step a function of (seed, step)."""
    # default_generator costs microseconds where torch.manual_seed, which walks all CUDA devices, costs 200.
    mixed = (seed * 0x9E3779B97F4A7C15 + step) % 2**63
    torch.default_generator.manual_seed(mixed)
    seed_gpus(mixed)
