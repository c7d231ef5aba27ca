"""Divide images among ranks and collect the results at rank 0 in the order of the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from tlkit.distributed.world import World

Allocate = Callable[[tuple[int, ...]], np.ndarray]
"""Shape -> empty array of the rows' type."""


def shard_indices(count: int, batch_size: int, world: World) -> list[int]:
    """Indices of this rank's images: every size-th batch, so batches are the same for any number of ranks."""
    batches = range(0, count, batch_size)
    return [i for start in batches[world.rank :: world.size] for i in range(start, min(start + batch_size, count))]


def gather_in_order(indices: Sequence[int], rows: Tensor, world: World, allocate: Allocate) -> Tensor:
    """Rank 0: the rows of all ranks sorted by image index, [total N, ...]. Other ranks: an empty tensor.

    indices: the image of each of this rank's rows [N, ...].
    """
    if world.size == 1:
        return rows
    everywhere = world.all_gather_object(list(indices))
    order = np.argsort(np.concatenate([np.array(those, np.int64) for those in everywhere]), kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    starts = np.cumsum([0, *map(len, everywhere)])
    gathered: np.ndarray | None = None
    for rank, start, piece in world.gather_rows(rows):
        gathered = allocate((len(order), *piece.shape[1:])) if gathered is None else gathered
        first = starts[rank] + start
        gathered[places[first : first + len(piece)]] = piece.numpy()
    return torch.empty(0) if gathered is None else torch.from_numpy(gathered)
