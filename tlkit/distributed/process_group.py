"""The ranks of a job, joined: a World over torch.distributed.

Ranks exchange tensors, JSON, and what `torch.load` opens without running anything: never pickles.
"""

from __future__ import annotations

import io
import json
import math
import os
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import FileStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from tlkit.distributed.env import LAUNCHER, RankInfo, attempt, on_host, silence
from tlkit.distributed.world import World
from tlkit.errors import UnavailableError, UsageError, first_line

CHUNK_BYTES = 64 << 20
"""Of rows that travel to the first rank in one piece."""


SHORTEST_PAUSE, LONGEST_PAUSE = 0.005, 0.25
"""Seconds between two looks at whether the others are there."""


DISCONNECT_SECONDS = 10.0
"""Seconds within which ranks that have met once more are gone."""


class ProcessGroupWorld(World):
    """A rank among others, which have all joined. store: where they meet."""

    def __init__(self, here: RankInfo, store: Store) -> None:
        self.place = here
        self.rank = here.rank
        self.size = here.size
        self.store = store
        self.meetings = 0

    def barrier(self, patience: float = math.inf) -> None:
        """As a World does; with patience, so many seconds. Raises TimeoutError."""
        began = time.monotonic()
        self.meetings += 1
        arrived, all_here = f"meeting {self.meetings}", f"meeting {self.meetings} is complete"
        if self.store.add(arrived, 1) == self.size:
            self.store.set(all_here, "")
        pause = SHORTEST_PAUSE
        while not self.store.check([all_here]):
            if time.monotonic() - began > patience:
                raise TimeoutError("timed out")
            time.sleep(pause)  # no wait of the store's own: that would hear no signal
            pause = min(1.5 * pause, LONGEST_PAUSE)

    def broadcast_object(self, value: Any) -> Any:
        return json.loads(self._first_bytes(json.dumps(value).encode() if self.is_first else b""))

    def broadcast_tensors(self, value: Any) -> Any:
        content = io.BytesIO()
        if self.is_first:
            torch.save(value, content)
        return torch.load(io.BytesIO(self._first_bytes(content.getvalue())), map_location="cpu", weights_only=True)

    def _first_bytes(self, content: bytes) -> bytes:
        self.barrier()
        length = torch.tensor([len(content)])
        dist.broadcast(length, 0)
        received = as_bytes(content) if self.is_first else torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(received, 0)
        return received.numpy().tobytes()

    def all_gather_object(self, value: Any) -> list[Any]:
        self.barrier()
        content = as_bytes(json.dumps(value).encode())
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(content)]))
        longest = int(max(lengths))
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(content)] = content
        received = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(received, padded)
        pairs = zip(received, lengths, strict=True)
        return [json.loads(part[: int(length)].numpy().tobytes()) for part, length in pairs]

    def gather_rows(self, rows: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        rows = rows.contiguous()
        shapes = self.all_gather_object(list(rows.shape))
        for rank, shape in enumerate(shapes):
            row_bytes = max(rows.element_size() * int(torch.Size(shape[1:]).numel()), 1)
            at_once = max(CHUNK_BYTES // row_bytes, 1)
            for start in range(0, shape[0], at_once):
                stop = min(start + at_once, shape[0])
                if rank == self.rank == 0:
                    yield rank, start, rows[start:stop]
                elif rank == self.rank:
                    dist.send(rows[start:stop], 0)
                elif self.is_first:
                    piece = torch.empty((stop - start, *shape[1:]), dtype=rows.dtype)
                    dist.recv(piece, rank)
                    yield rank, start, piece

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    def all_reduce_max(self, number: int) -> int:
        found = torch.tensor([number])
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def broadcast_parameters(self, module: nn.Module) -> None:
        with torch.no_grad():
            for tensor in [*module.parameters(), *module.buffers()]:
                dist.broadcast(tensor, 0)

    def broadcast_buffers(self, module: nn.Module) -> None:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)

    def close(self) -> None:
        """As a World does. Where no agent keeps the store, the first rank does: those who still look must find it."""
        dist.destroy_process_group()
        left, began = self.store.add("left", 1), time.monotonic()
        while self.is_first and left < self.size and time.monotonic() - began < DISCONNECT_SECONDS:
            time.sleep(SHORTEST_PAUSE)
            left = self.store.add("left", 0)


def as_bytes(content: bytes) -> Tensor:
    """uint8 [N]"""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def join(here: RankInfo, patience: float, rendezvous_patience: float) -> ProcessGroupWorld:
    """Meet the other ranks where the environment says. Raises UnavailableError or UsageError."""
    try:
        with silence():  # torch's transports talk to standard error of what is told below
            store = rendezvous_store(here, rendezvous_patience)
            world = ProcessGroupWorld(here, PrefixStore("tlkit", store))
            world.barrier(rendezvous_patience)  # what follows would hear no signal while it waits for others
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                store=PrefixStore("group", store),
                rank=here.rank,
                world_size=here.size,
                timeout=timedelta(seconds=patience),
            )
            world.all_reduce_max(0)  # the first word between ranks connects them: what hinders that is heard of here
    except (RuntimeError, ValueError, OSError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}" if LAUNCHER not in os.environ else "ranks"
        raise UnavailableError(where, explain_failed_join(here, error, rendezvous_patience), RENDEZVOUS_HINT) from error
    return world


def rendezvous_store(here: RankInfo, patience: float) -> Store:
    """Where ranks find each other: under tlkit's own launcher a file, which nobody else can reach, else as torchrun
    says."""
    folder = os.environ.get(LAUNCHER)
    if folder is not None:
        return FileStore(os.path.join(folder, f"meeting-{attempt()}"), here.size)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise UsageError(name, "is not set in the environment, but RANK is; torchrun sets both")
    if here.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        # torch takes whoever listens there for a store of its own, and waits for an answer.
        socket.create_server(("", int(os.environ["MASTER_PORT"]))).close()
    store: Store = next(rendezvous("env://", timeout=timedelta(seconds=patience)))[0]
    return store


RENDEZVOUS_HINT = (
    "Every rank must reach that address and port, and the other ranks; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name "
    "the network interface to use."
)


def explain_failed_join(here: RankInfo, error: Exception, patience: float) -> str:
    """Why ranks could not meet."""
    text = first_line(error)
    if "EADDRINUSE" in text or "address already in use" in text.lower():
        return f"the port is in use{on_host(here)}, so {here} cannot wait there for the other ranks"
    if any(words in text.lower() for words in ("timed out", "timeout", "time out")):
        return f"{here} could not meet the other ranks there within {patience:g} seconds"
    return f"{here} could not meet the other ranks there ({text})"
