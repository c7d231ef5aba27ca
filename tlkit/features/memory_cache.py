"""Features kept in memory between the runs of a process, such as trials of a search."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

MOST_BYTES = 2 << 30

SHARE = 0.25
"""Fraction of the memory that all processes of a machine together may use for features."""


@dataclass(eq=False)
class FeatureMemory:
    """Least-recently-used cache of feature arrays, limited in bytes; 0 disables it."""

    most_bytes: int = MOST_BYTES
    kept: dict[tuple[object, tuple[str, ...]], Tensor] = field(default_factory=dict)

    def recall(self, kind: object, paths: Sequence[str], find: Callable[[], tuple[Tensor, bool]]) -> Tensor:
        """The features of images. kind: everything else that determines them. find: computes them, and returns whether
        to keep them."""
        if not self.most_bytes:
            return find()[0]
        key = (kind, tuple(paths))
        features = self.kept.pop(key, None)
        if features is None:
            features = self.gathered(kind, paths)
            if features is not None:
                return features  # already kept as part of other arrays
            features, is_whole = find()
            if not is_whole:
                return features
        self.kept[key] = features
        while sum(tensor.nbytes for tensor in self.kept.values()) > self.most_bytes:
            del self.kept[next(iter(self.kept))]
        return features

    def gathered(self, kind: object, paths: Sequence[str]) -> Tensor | None:
        """Features assembled from kept arrays, as for the images of a fold; None if one is missing."""
        rows = {
            path: row
            for (other, names), features in self.kept.items()
            if other == kind
            for path, row in zip(names, features, strict=True)
        }
        found = [rows.get(path) for path in paths]
        whole = [row for row in found if row is not None]
        return torch.stack(whole) if whole and len(whole) == len(found) else None


def share_of_memory() -> int:
    """Bytes that each of one process per core may keep."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(MOST_BYTES, int(SHARE * memory) // (os.cpu_count() or 1))


NO_MEMORY = FeatureMemory(0)
