"""One optimizer step over one batch: forward, loss, backward, update; in parts where it does not fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from tlkit.distributed import ALONE, World
from tlkit.memory import Shortage, release_memory
from tlkit.training.state import TrainingState

Passed = tuple[Tensor, Tensor]
"""Logits [b, C], and the part that b samples have in the mean loss of the batch."""


@dataclass
class Stepper:
    """Steps of a module on its device. class_weights [C]: factors of each class in the loss.

    The state's micro_batch is how many samples pass together. When memory is used up it is halved, and the step is done
    again from its beginning: in more parts, whose gradients add up to those of the whole batch.
    """

    module: nn.Module
    state: TrainingState
    class_weights: Tensor
    label_smoothing: float
    seed: int
    device: torch.device
    world: World = ALONE
    rehearsed: int = field(default=0, init=False)

    def gradients(self, inputs: Tensor, labels: Tensor, total: int, step: int) -> tuple[Tensor, float]:
        """Compute the gradients of the mean loss over a batch of `total` samples on all ranks.

        inputs [b, ...], labels [b]: this rank's share of the batch. Returns its logits [b, C] and the mean loss over
        the whole batch. Raises MemoryError if one sample alone is too much.
        """
        before = [buffer.clone() for buffer in self.moving]
        share = -(-total // self.world.size)  # that of any rank at most: all divide theirs into as many parts
        while True:
            size = min(self.state.micro_batch or share, share)
            # Ranks wait for each other in the last backward pass, where memory must not run out any more. So they try
            # all of a step without each other first, once for a size.
            rehearsing = self.world.size > 1 and size > self.rehearsed
            shortage = Shortage()
            passed = self.attempt(inputs, labels, total, step, -(-share // size), rehearsing, shortage)
            if passed is not None and not rehearsing:
                logits, loss = passed
                return logits, self.world.sum(loss).item()
            restore(self.moving, before)
            if passed is not None:
                self.rehearsed = size
                continue
            if size == 1:
                raise MemoryError(shortage.text)
            release_memory()
            self.rehearsed = 0
            self.state.micro_batch = -(-size // 2)

    def attempt(
        self, inputs: Tensor, labels: Tensor, total: int, step: int, parts: int, rehearsing: bool, shortage: Shortage
    ) -> Passed | None:
        """Pass a batch in parts, and leave the sum of their gradients. None if memory was used up on any rank."""
        seed_dropout(self.seed, step)
        self.state.optimizer.zero_grad()
        together = self.world.size > 1 and not rehearsing
        passed: list[Passed] = []
        with shortage:
            *first, last = divided(inputs, labels, parts)
            for part, own in first:
                with unsynchronised(self.module):
                    logits, loss = self.forward(part, own, total)
                    self.backward(loss)
                passed.append((logits.detach(), loss.detach()))
            with nullcontext() if together else unsynchronised(self.module):
                logits, loss = self.forward(*last, total)
                if not together:
                    self.backward(loss)
            passed.append((logits.detach(), loss.detach()))
        if self.on_any_rank(shortage.found):
            return None
        if together:
            self.backward(loss)
        if len(passed) == 1:
            return passed[0]
        return torch.cat([logits for logits, _ in passed]), torch.stack([loss for _, loss in passed]).sum()

    def on_any_rank(self, found: bool) -> bool:
        """Whether something was found on this rank or another. All must ask together."""
        return found if self.world.size == 1 else bool(self.world.sum(torch.tensor(float(found))).item())

    @cached_property
    def moving(self) -> list[Tensor]:
        """What a pass changes beside gradients: the statistics of norms that train."""
        norms = (part for part in self.module.modules() if part.training and isinstance(part, _NormBase))
        return [buffer for norm in norms for buffer in norm.buffers()]

    @cached_property
    def moving_twice(self) -> list[Tensor]:
        """Those that move again in the backward pass, as layers keep no activations for it but compute them twice."""
        again = any(getattr(part, "grad_checkpointing", False) for part in self.module.modules())
        return self.moving if again else []

    def forward(self, inputs: Tensor, labels: Tensor, total: int) -> Passed:
        """Logits and loss of some samples, with the graph that backward needs."""
        inputs, labels = inputs.to(self.device), labels.to(self.device)
        logits = self.module(inputs)  # [b, ...] -> [b, C]
        losses = F.cross_entropy(
            logits, labels, self.class_weights, reduction="none", label_smoothing=self.label_smoothing
        )
        return logits, losses.sum() / total

    def backward(self, loss: Tensor) -> None:
        """Add the gradients. Statistics count each sample once."""
        counted = [buffer.clone() for buffer in self.moving_twice]
        scaled = self.state.scaler.scale(loss * self.world.size)  # gradients are averaged over ranks
        scaled.backward()  # type: ignore[no-untyped-call]
        restore(self.moving_twice, counted)

    def update(self, learning_rate: float) -> None:
        """Move the parameters along their gradients. learning_rate: before each group's own scale.

        Gradients that fp16 could not hold are left out, and the next ones scaled less.
        """
        for group in self.state.optimizer.param_groups:
            group["lr"] = learning_rate * group["scale"]
        self.state.scaler.step(self.state.optimizer)
        self.state.scaler.update()


def unsynchronised(module: nn.Module) -> AbstractContextManager[None]:
    """Inside, gradients of a module that several ranks train are not averaged over them."""
    no_sync = getattr(module, "no_sync", nullcontext)
    context: AbstractContextManager[None] = no_sync()
    return context


def divided(inputs: Tensor, labels: Tensor, parts: int) -> list[tuple[Tensor, Tensor]]:
    """A batch in so many parts, as even as they can be; none is empty."""
    if parts == 1:
        return [(inputs, labels)]
    both = zip(inputs.tensor_split(parts), labels.tensor_split(parts), strict=True)
    return [(part, own) for part, own in both if len(own)]


def restore(buffers: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Give buffers, which need no gradients, the values they had."""
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)


def seed_dropout(seed: int, step: int) -> None:
    """Make what is random inside a step a function of (seed, step)."""
    # default_generator costs microseconds where torch.manual_seed, which walks all CUDA devices, costs 200.
    mixed = (seed * 0x9E3779B97F4A7C15 + step) % 2**63
    torch.default_generator.manual_seed(mixed)
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(mixed)
