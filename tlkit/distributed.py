"""The processes that work on one command together. One process alone is a world of size one, by the same code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class World(Protocol):
    """The ranks of a command: this process is `rank` of `size`."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, on every rank. All must call it, in the same order."""
        ...


class Alone:
    """A world of one process."""

    rank = 0
    size = 1

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor


ALONE: World = Alone()
