"""The collective operations of a job's ranks, named as in torch.distributed. A single process is a world of size 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from tlkit.distributed.env import RankInfo

if TYPE_CHECKING:
    from torch import Tensor, nn

Value = TypeVar("Value")


class World:
    """A single process, in which every collective operation is trivial. ProcessGroupWorld is the real one."""

    rank = 0
    size = 1
    place = RankInfo(0, 1)

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes files and prints."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank has called this, without a timeout."""

    def broadcast_object(self, value: Value) -> Value:
        """Return rank 0's value, of JSON types, on every rank. Tuples may arrive as lists."""
        return value

    def broadcast_tensors(self, value: Value) -> Value:
        """Return rank 0's tensors, in containers of plain types, on every rank."""
        return value

    def all_gather_object(self, value: Value) -> list[Value]:
        """Return the values of all ranks, of JSON types, on every rank. Tuples may arrive as lists."""
        return [value]

    def gather_rows(self, rows: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Rank 0: yield the rows [N, ...] of every rank in pieces: (rank, index of the first row, piece).

        The other ranks must iterate too; they yield nothing.
        """
        yield 0, 0, rows

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Return the sum over all ranks on every rank."""
        return values

    def all_reduce_max(self, number: int) -> int:
        """Return the largest number of all ranks on every rank."""
        return number

    def broadcast_parameters(self, module: nn.Module) -> None:
        """Copy rank 0's parameters and buffers to every rank, in place."""

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Copy rank 0's buffers to every rank, in place."""

    def close(self) -> None:
        """Disconnect from the other ranks."""


SINGLE_PROCESS = World()
