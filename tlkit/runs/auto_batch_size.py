"""--batch-size auto: the largest batch that trains, found by trying."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tlkit.devices.kinds import kind_of
from tlkit.devices.memory import OutOfMemoryGuard, release_memory
from tlkit.distributed.world import SINGLE_PROCESS, World
from tlkit.model.classifier import Classifier
from tlkit.training.batch_norm import LocalBatchNorm
from tlkit.training.optimizer import build_optimizer, build_scaler
from tlkit.training.state import TrainingState
from tlkit.training.step import Stepper

FIRST = 16
"""Images that are tried first; the default."""


class FakePeerWorld(World):
    """Another rank that is as this one: what ranks do inside of a pass is done, and held in memory, without asking."""

    size = 2

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        return 2 * values


@dataclass
class BatchSizeFinder:
    """Steps that are tried, of which nothing is left: neither in what trains, nor in random numbers, nor in memory.

    module: what the loop trains, the classifier itself or around it. optimizer: a key of OPTIMIZERS. fp16: whether
    layers train in it. image_size: (height, width). parts: in which a batch passes. batch_norm: how a BatchNorm that
    trains takes its statistics. shortage: of the last attempt.
    """

    classifier: Classifier
    module: nn.Module
    optimizer: str
    fp16: bool
    image_size: tuple[int, int]
    device: torch.device
    world: World = SINGLE_PROCESS
    parts: int = 1
    batch_norm: AbstractContextManager[object] = field(default_factory=LocalBatchNorm)
    shortage: OutOfMemoryGuard = field(default_factory=OutOfMemoryGuard, init=False)

    def find(self, images: int) -> int:
        """The largest batch that trains: on each rank a power of two, and on all of them no more than LARGEST or
        so many images.

        Raises MemoryError if one image is too much.
        """
        most = max(1, min(kind_of(self.device).largest_batch, images) // self.world.size)
        size = 1 << min(FIRST, most).bit_length() - 1
        if self.fits(size):
            while 2 * size <= most and self.fits(2 * size):
                size *= 2
        else:
            size //= 2
            while size and not self.fits(size):
                size //= 2
            if not size:
                raise MemoryError(self.shortage.text)
        return size * self.world.size

    def fits(self, size: int) -> bool:
        """Whether every rank can train on so many images."""
        before = {key: tensor.to("cpu", copy=True) for key, tensor in self.classifier.trainable_state().items()}
        try:
            with torch.random.fork_rng(kind_of(self.device).random_devices(self.device)):
                return self.step(size)
        finally:
            self.classifier.load_trainable_state(before)
            self.classifier.zero_grad()
            release_memory()

    def step(self, size: int) -> bool:
        """Train on noise, the optimizer's own memory included. Whether memory was enough."""
        self.shortage = OutOfMemoryGuard()
        optimizer = build_optimizer(self.classifier.head, self.classifier.backbone, self.optimizer, 0.0)
        state = TrainingState(self.classifier, optimizer, scaler=build_scaler(self.fp16, self.device))
        weights = torch.ones(self.classifier.head.classes(), device=self.device)
        stepper = Stepper(self.module.train(), state, weights, 0.0, 0, self.device, self.world)
        images, labels = torch.rand(size, 3, *self.image_size), torch.zeros(size, dtype=torch.int64)
        with self.batch_norm:
            passed = stepper.attempt(images, labels, size * self.world.size, 0, self.parts, self.shortage)
        if passed is None:
            return False
        with self.shortage:
            stepper.update(0.0)
        return not stepper.on_any_rank(self.shortage.found)
