"""--batch-size auto: find the largest batch that fits into memory, by trying."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tlkit.devices.kinds import kind_of
from tlkit.devices.memory import OutOfMemoryGuard, release_memory
from tlkit.distributed.world import SINGLE_PROCESS, World
from tlkit.model.classifier import Classifier
from tlkit.options import FinetuneOptions
from tlkit.training.optimizer import build_optimizer, build_scaler
from tlkit.training.state import TrainingState
from tlkit.training.step import Stepper

FIRST = 16
"""The batch that is tried first: the default batch size."""


class FakePeerWorld(World):
    """A world of two equal ranks in one process: collective operations take their memory without communication."""

    size = 2

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        return 2 * values


@dataclass
class BatchSizeFinder:
    """Tries training steps and undoes them: parameters, random numbers and memory are as before.

    module: what the loop trains, the classifier or a wrapper. fp16: whether layers train in fp16.
    image_size: (height, width). batch_norm: as in training.
    guard: of the last attempt.
    """

    classifier: Classifier
    module: nn.Module
    options: FinetuneOptions
    fp16: bool
    image_size: tuple[int, int]
    device: torch.device
    world: World = SINGLE_PROCESS
    batch_norm: AbstractContextManager[object] = field(default_factory=nullcontext)
    guard: OutOfMemoryGuard = field(default_factory=OutOfMemoryGuard, init=False)

    def find(self, images: int) -> int:
        """The largest batch that fits: a power of two on each rank; over all ranks at most `images` and the limit
        of the kind of device.

        Raises MemoryError if one image does not fit.
        """
        largest = max(1, min(kind_of(self.device).largest_batch, images) // self.world.size)
        size = 1 << min(FIRST, largest).bit_length() - 1
        if self.fits(size):
            while 2 * size <= largest and self.fits(2 * size):
                size *= 2
        else:
            size //= 2
            while size and not self.fits(size):
                size //= 2
            if not size:
                raise MemoryError(self.guard.text)
        return size * self.world.size

    def fits(self, size: int) -> bool:
        """Whether every rank can train on this many images."""
        before = {key: tensor.to("cpu", copy=True) for key, tensor in self.classifier.trainable_state().items()}
        try:
            with torch.random.fork_rng(kind_of(self.device).random_devices(self.device)):
                return self.step(size)
        finally:
            self.classifier.load_trainable_state(before)
            self.classifier.zero_grad()
            release_memory()

    def step(self, size: int) -> bool:
        """Take one training step on random images, with an optimizer of its own. Returns whether memory sufficed."""
        self.guard = OutOfMemoryGuard()
        optimizer = build_optimizer(self.classifier.head, self.classifier.backbone, self.options)
        state = TrainingState(self.classifier, optimizer, scaler=build_scaler(self.fp16, self.device))
        weights = torch.ones(self.classifier.head.classes(), device=self.device)
        stepper = Stepper(self.module.train(), state, weights, self.options, self.device, self.world)
        images, labels = torch.rand(size, 3, *self.image_size), torch.zeros(size, dtype=torch.int64)
        with self.batch_norm:
            batch = images, labels, size * self.world.size, None
            outputs = stepper.attempt(batch, 0, self.options.accumulate, self.guard)
        if outputs is None:
            return False
        with self.guard:
            stepper.update(0.0)
        return not stepper.on_any_rank(self.guard.found)
