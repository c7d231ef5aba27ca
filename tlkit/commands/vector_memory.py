"""Vectors that a process keeps from one run to the next, so that it reads the same images no second time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

MOST_BYTES = 2 << 30


@dataclass(eq=False)
class VectorMemory:
    """The sets of vectors used last, as far as they fit into so many bytes; with none, nothing is kept."""

    most_bytes: int = MOST_BYTES
    kept: dict[object, Tensor] = field(default_factory=dict)

    def recall(self, key: object, find: Callable[[], tuple[Tensor, bool]]) -> Tensor:
        """The vectors of a key. find: how else they are found, and whether they are worth keeping."""
        vectors = self.kept.pop(key, None)
        if vectors is None:
            vectors, is_whole = find()
            if not is_whole:
                return vectors
        self.kept[key] = vectors
        while sum(tensor.nbytes for tensor in self.kept.values()) > self.most_bytes:
            del self.kept[next(iter(self.kept))]
        return vectors


NO_MEMORY = VectorMemory(0)
