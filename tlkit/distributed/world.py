"""All the ranks of a job as one: what they agree on, share and add up. A process alone is a world of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tlkit.distributed.env import RankInfo

if TYPE_CHECKING:
    from torch import Tensor, nn


class World:
    """A process alone: the null object, which has its own answer to every question that ranks ask each other."""

    rank = 0
    size = 1
    place = RankInfo(0, 1)

    @property
    def is_first(self) -> bool:
        """Whether this rank writes and talks."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks, however long one of them takes."""

    def broadcast_object(self, value: Any) -> Any:
        """The first rank's value, of JSON types, for all."""
        return value

    def broadcast_tensors(self, value: Any) -> Any:
        """The first rank's tensors, in containers of plain types, for all."""
        return value

    def all_gather_object(self, value: Any) -> list[Any]:
        """Every rank's value, of JSON types, for all."""
        return [value]

    def gather_rows(self, rows: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """At the first rank, the rows [N, ...] of every rank: rank, first row, and a piece of its rows. Every rank
        must take what comes, which at the others is nothing."""
        yield 0, 0, rows

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in all."""
        return values

    def all_reduce_max(self, number: int) -> int:
        """The largest number that any rank has."""
        return number

    def broadcast_parameters(self, module: nn.Module) -> None:
        """Give the parameters and buffers of every rank the values of the first."""

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Give the buffers of every rank the values of the first."""

    def close(self) -> None:
        """Leave the others."""


SINGLE_PROCESS = World()
