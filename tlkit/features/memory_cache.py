"""Vectors that a process keeps from one run to the next, so that it reads the same images no second time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

MOST_BYTES = 2 << 30


SHARE = 0.25
"""Of a machine's memory, what its processes may take for vectors, one on each core."""


@dataclass(eq=False)
class VectorMemory:
    """The sets of vectors used last, as far as they fit into so many bytes; with none, nothing is kept."""

    most_bytes: int = MOST_BYTES
    kept: dict[tuple[object, tuple[str, ...]], Tensor] = field(default_factory=dict)

    def recall(self, kind: object, paths: Sequence[str], find: Callable[[], tuple[Tensor, bool]]) -> Tensor:
        """The vectors of some images. kind: what decides them beside the images. find: how else they are found, and
        whether they are worth keeping."""
        if not self.most_bytes:
            return find()[0]
        key = (kind, tuple(paths))
        vectors = self.kept.pop(key, None)
        if vectors is None:
            vectors = self.gathered(kind, paths)
            if vectors is not None:
                return vectors  # it is kept already, in other sets
            vectors, is_whole = find()
            if not is_whole:
                return vectors
        self.kept[key] = vectors
        while sum(tensor.nbytes for tensor in self.kept.values()) > self.most_bytes:
            del self.kept[next(iter(self.kept))]
        return vectors

    def gathered(self, kind: object, paths: Sequence[str]) -> Tensor | None:
        """The vectors of images that are all in sets of others, as those of a fold are; None if one is not."""
        rows = {
            path: row
            for (other, names), vectors in self.kept.items()
            if other == kind
            for path, row in zip(names, vectors, strict=True)
        }
        found = [rows.get(path) for path in paths]
        whole = [row for row in found if row is not None]
        return torch.stack(whole) if whole and len(whole) == len(found) else None


def share_of_memory() -> int:
    """What one of as many processes as there are cores may keep."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(MOST_BYTES, int(SHARE * memory) // (os.cpu_count() or 1))


NO_MEMORY = VectorMemory(0)
