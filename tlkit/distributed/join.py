"""Join this process to the other ranks of its job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tlkit.distributed.env import rank_info
from tlkit.distributed.world import SINGLE_PROCESS, World
from tlkit.options import RankOptions


@contextmanager
def joined(options: RankOptions) -> Iterator[World]:
    """The world of this process. Ranks disconnect in order only after success: a rank that fails must not wait.

    Raises UnavailableError if the ranks cannot connect.
    """
    here = rank_info()
    if here is None:
        yield SINGLE_PROCESS
        return
    from tlkit.distributed.process_group import join

    world = join(here, options.rank_timeout, options.rendezvous_timeout)
    yield world
    world.barrier()
    world.close()
