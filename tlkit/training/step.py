"""One optimizer step over one batch: forward, loss, backward, update."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlkit.distributed import ALONE, World


@dataclass
class Stepper:
    """Steps of a module on its device. class_weights [C]: factors of each class in the loss."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    class_weights: Tensor
    label_smoothing: float
    seed: int
    device: torch.device
    world: World = ALONE

    def gradients(self, inputs: Tensor, labels: Tensor, total: int, step: int) -> tuple[Tensor, float]:
        """Compute the gradients of the mean loss over a batch of `total` samples on all ranks.

        inputs [b, ...], labels [b]: this rank's share of the batch. Returns its logits [b, C] and the mean loss over
        the whole batch.
        """
        seed_dropout(self.seed + (self.world.rank << 40), step)
        inputs, labels = inputs.to(self.device), labels.to(self.device)
        self.optimizer.zero_grad()
        logits = self.module(inputs)  # [b, ...] -> [b, C]
        losses = F.cross_entropy(
            logits, labels, self.class_weights, reduction="none", label_smoothing=self.label_smoothing
        )
        loss = losses.sum() / total
        (loss * self.world.size).backward()  # type: ignore[no-untyped-call]  # gradients are averaged over ranks
        return logits.detach(), self.world.sum(loss.detach()).item()

    def update(self, learning_rate: float) -> None:
        """Move the parameters along their gradients. learning_rate: before each group's own scale."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["scale"]
        self.optimizer.step()


def seed_dropout(seed: int, step: int) -> None:
    """Make what is random inside a step a function of (seed, step)."""
    # default_generator costs microseconds where torch.manual_seed, which walks all CUDA devices, costs 200.
    mixed = (seed * 0x9E3779B97F4A7C15 + step) % 2**63
    torch.default_generator.manual_seed(mixed)
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(mixed)
