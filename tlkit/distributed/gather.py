"""Images shared out among ranks, and what they found brought back to the first in the images' own order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlkit.distributed.world import World

Allocate = Callable[[tuple[int, ...]], NDArray[Any]]


def shard_indices(count: int, together: int, world: World) -> list[int]:
    """Which of so many images are this rank's: those of every size-th batch of `together`, so that batches are made of
    the same images however many ranks there are."""
    batches = range(0, count, together)
    return [
        number for start in batches[world.rank :: world.size] for number in range(start, min(start + together, count))
    ]


def gather_in_order(numbers: Sequence[int], rows: Tensor, world: World, allocate: Allocate) -> Tensor:
    """At the first rank, the rows [N, ...] of all in the order of their numbers; nothing at the others.

    numbers: of the images that this rank's rows are of.
    """
    if world.size == 1:
        return rows
    everywhere = world.all_gather_object(list(numbers))
    order = np.argsort(np.concatenate([np.array(those, np.int64) for those in everywhere]), kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    starts = np.cumsum([0, *map(len, everywhere)])
    whole: NDArray[Any] | None = None
    for rank, start, piece in world.gather_rows(rows):
        whole = allocate((len(order), *piece.shape[1:])) if whole is None else whole
        first = starts[rank] + start
        whole[places[first : first + len(piece)]] = piece.numpy()
    return torch.empty(0) if whole is None else torch.from_numpy(whole)
