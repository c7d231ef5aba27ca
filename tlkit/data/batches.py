"""Indices -> batches [B, ...]: order and normalization."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlkit.data.normalize import normalize
from tlkit.data.ordered_map import map_in_order
from tlkit.data.preprocessing import Preprocessing
from tlkit.distributed.world import SINGLE_PROCESS, World


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """A permutation of range(count), [count] int64, that depends only on (seed, epoch)."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(count, generator=generator)


NO_LABEL = -100
"""Label of padding for an empty share; torch's cross-entropy ignores it (ignore_index)."""


Batch = tuple[Tensor, Tensor, int, Tensor | None]
"""One step: this rank's inputs [S, ...] and labels [S], the number of samples of all ranks, and weights [S] if any."""


class EpochSteps:
    """The steps of an epoch over labels [N]: shuffled by seed for training, or in order without a seed for evaluation.

    Each rank trains on its part of every batch, and evaluates every size-th whole batch, so that sums over batches
    are independent of the number of ranks.
    """

    weights: Tensor | None = None
    """[N]: factors of the samples in the training loss; None if all are 1."""

    def __init__(self, labels: Tensor, batch_size: int, seed: int | None, world: World = SINGLE_PROCESS) -> None:
        self.labels = labels
        self.batch_size = batch_size
        self.seed = seed
        self.world = world

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in which the ranks take part together."""
        together = self.batch_size if self.seed is not None else self.batch_size * self.world.size
        return -(-len(self.labels) // together)

    def indices(self, epoch: int, first_step: int) -> Iterator[Tensor]:
        """Yield the indices [B] of each batch, starting at first_step."""
        count = len(self.labels)
        order = torch.arange(count) if self.seed is None else epoch_order(count, self.seed, epoch)
        return (
            order[start : start + self.batch_size]
            for start in range(first_step * self.batch_size, count, self.batch_size)
        )

    def shares(self, epoch: int, first_step: int) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Yield this rank's part of each step: indices [S], labels [S], and the samples of all ranks."""
        rank, size = self.world.rank, self.world.size
        if self.seed is None:
            batches = [*self.indices(epoch, first_step), *[torch.arange(0)] * (size - 1)]
            for mine in batches[rank::size][: self.steps_per_epoch]:
                yield mine, self.labels[mine], len(mine)
            return
        for chosen in self.indices(epoch, first_step):
            mine = chosen.tensor_split(size)[rank]
            if len(mine):
                yield mine, self.labels[mine], len(chosen)
            else:  # an empty rank must still take part in the all-reduce of gradients
                yield chosen[:1], torch.full((1,), NO_LABEL), len(chosen)

    def weights_of(self, chosen: Tensor) -> Tensor | None:
        """The weights of samples with these indices."""
        return None if self.weights is None else self.weights[chosen]


class FeatureBatches(EpochSteps):
    """Batches of features. views: [N, ...] per augmented view, used in turn by epoch; labels [N]."""

    def __init__(self, views: Sequence[Tensor], labels: Tensor, batch_size: int, seed: int | None) -> None:
        super().__init__(labels, batch_size, seed)
        self.views = views

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the features [B, ...] of each step; the last batch may be smaller."""
        features = self.views[epoch % len(self.views)]
        for chosen, labels, total in self.shares(epoch, first_step):
            yield features[chosen], labels, total, self.weights_of(chosen)


class ImageBatches(EpochSteps):
    """Batches of images, prefetched by threads. load(index, epoch) -> uint8 [H, W, 3]; labels [N]."""

    def __init__(
        self,
        load: Callable[[int, int], NDArray[np.uint8]],
        labels: Tensor,
        preprocessing: Preprocessing,
        batch_size: int,
        seed: int | None,
        workers: int,
        world: World = SINGLE_PROCESS,
    ) -> None:
        super().__init__(labels, batch_size, seed, world)
        self.load = load
        self.preprocessing = preprocessing
        self.workers = workers

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the images [S, 3, H, W] of each step: this rank's share of a batch.

        The last batch may be smaller, and a share empty.
        """
        steps = list(self.shares(epoch, first_step))
        indices = (index for chosen, _, _ in steps for index in chosen.tolist())
        pixels = map_in_order(
            lambda index: self.load(index, epoch), indices, workers=self.workers, ahead=2 * self.batch_size
        )
        empty = np.empty((0, *self.preprocessing.image_size, 3), np.uint8)
        for chosen, labels, total in steps:
            stacked = np.stack([next(pixels) for _ in range(len(chosen))]) if len(chosen) else empty
            images = normalize(torch.from_numpy(stacked), self.preprocessing)
            yield images, labels, total, self.weights_of(chosen)
