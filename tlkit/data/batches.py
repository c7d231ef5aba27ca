"""Indices -> batches [B, ...]: order and normalisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlkit.data.in_order import map_in_order
from tlkit.data.preprocessing import Preprocessing


def normalise(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W], bit for bit as torchvision's ToTensor and Normalize.

    In memory the channels stay last, as convolutions want them.
    """
    mean = torch.tensor(preprocessing.mean, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(preprocessing.std, device=pixels.device).view(3, 1, 1)
    images = pixels.permute(0, 3, 1, 2).float().div_(255)
    return images.sub_(mean).div_(std)


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """A permutation of range(count), [count] int64: a function of (seed, epoch) and nothing else."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(count, generator=generator)


class EpochSteps:
    """The order of an epoch's steps over labels [N]: shuffled by seed in each epoch if there is one."""

    def __init__(self, labels: Tensor, batch_size: int, seed: int | None) -> None:
        self.labels = labels
        self.batch_size = batch_size
        self.seed = seed

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def indices(self, epoch: int, first_step: int) -> Iterator[Tensor]:
        """The indices [B] of each step of an epoch from first_step on."""
        count = len(self.labels)
        order = torch.arange(count) if self.seed is None else epoch_order(count, self.seed, epoch)
        return (
            order[start : start + self.batch_size]
            for start in range(first_step * self.batch_size, count, self.batch_size)
        )


class VectorBatches(EpochSteps):
    """Batches of vectors. views: [N, ...] for each view of the images, taken in turn by epoch; labels [N]."""

    def __init__(self, views: Sequence[Tensor], labels: Tensor, batch_size: int, seed: int | None) -> None:
        super().__init__(labels, batch_size, seed)
        self.views = views

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(vectors [B, ...], labels [B]) of each step; the last batch may be short."""
        vectors = self.views[epoch % len(self.views)]
        for chosen in self.indices(epoch, first_step):
            yield vectors[chosen], self.labels[chosen]


class ImageBatches(EpochSteps):
    """Batches of images, loaded ahead by threads. load(index, epoch) -> uint8 [H, W, 3]; labels [N]."""

    def __init__(
        self,
        load: Callable[[int, int], NDArray[np.uint8]],
        labels: Tensor,
        preprocessing: Preprocessing,
        batch_size: int,
        seed: int | None,
        workers: int,
    ) -> None:
        super().__init__(labels, batch_size, seed)
        self.load = load
        self.preprocessing = preprocessing
        self.workers = workers

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(images [B, 3, H, W], labels [B]) of each step; the last batch may be short."""
        steps = list(self.indices(epoch, first_step))
        indices = (index for chosen in steps for index in chosen.tolist())
        pixels = map_in_order(
            lambda index: self.load(index, epoch), indices, workers=self.workers, ahead=2 * self.batch_size
        )
        for chosen in steps:
            stacked = torch.from_numpy(np.stack([next(pixels) for _ in range(len(chosen))]))
            yield normalise(stacked, self.preprocessing), self.labels[chosen]
