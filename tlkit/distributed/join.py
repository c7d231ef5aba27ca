"""How a command becomes a rank among others, if its launcher says that it is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tlkit.distributed.env import rank_info
from tlkit.distributed.world import SINGLE_PROCESS, World
from tlkit.options import RankOptions


@contextmanager
def joined(options: RankOptions) -> Iterator[World]:
    """The world that this process belongs to. It is left in good order only where all goes well: a rank that fails
    must not wait for the others.

    Raises UnavailableError if the ranks cannot meet.
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
