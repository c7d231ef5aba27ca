"""World over torch.distributed.

Ranks exchange tensors, JSON, and what `torch.load` opens with weights_only=True: no pickles.
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

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import FileStore, PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from tlkit.distributed.env import LAUNCHER, RankInfo, attempt, on_host, silence
from tlkit.distributed.world import Value, World
from tlkit.errors import UnavailableError, UsageError, first_line
from tlkit.options.devices import GPU

CHUNK_BYTES = 64 << 20
"""Largest piece of rows that is sent to rank 0 at once."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.005, 0.25
"""Seconds between two polls of the store."""

DISCONNECT_SECONDS = 10.0
"""Seconds that rank 0 waits for the other ranks to disconnect."""


class ProcessGroupWorld(World):
    """A rank that has connected to the others. store: the key-value store they share."""

    def __init__(self, here: RankInfo, store: Store) -> None:
        self.place = here
        self.rank = here.rank
        self.size = here.size
        self.store = store
        self.barriers = 0

    def barrier(self, timeout: float = math.inf) -> None:
        """Wait until every rank has called this. Raises TimeoutError after `timeout` seconds."""
        began = time.monotonic()
        self.barriers += 1
        arrived, complete = f"meeting {self.barriers}", f"meeting {self.barriers} is complete"
        if self.store.add(arrived, 1) == self.size:
            self.store.set(complete, "")
        pause = SHORTEST_PAUSE
        while not self.store.check([complete]):
            if time.monotonic() - began > timeout:
                raise TimeoutError("timed out")
            time.sleep(pause)  # polled, because the store's own wait would block signals
            pause = min(1.5 * pause, LONGEST_PAUSE)

    def broadcast_object(self, value: Value) -> Value:
        received: Value = json.loads(self._first_bytes(json.dumps(value).encode() if self.is_first else b""))
        return received

    def broadcast_tensors(self, value: Value) -> Value:
        content = io.BytesIO()
        if self.is_first:
            torch.save(value, content)
        received = io.BytesIO(self._first_bytes(content.getvalue()))
        found: Value = torch.load(received, map_location="cpu", weights_only=True)
        return found

    def _first_bytes(self, content: bytes) -> bytes:
        self.barrier()
        length = torch.tensor([len(content)])
        dist.broadcast(length, 0)
        received = as_bytes(content) if self.is_first else torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(received, 0)
        return received.numpy().tobytes()

    def all_gather_object(self, value: Value) -> list[Value]:
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
            rows_per_chunk = max(CHUNK_BYTES // row_bytes, 1)
            for start in range(0, shape[0], rows_per_chunk):
                stop = min(start + rows_per_chunk, shape[0])
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
        """Disconnect. Rank 0 does so last: without an agent it holds the store that the others still poll."""
        dist.destroy_process_group()
        left, began = self.store.add("left", 1), time.monotonic()
        while self.is_first and left < self.size and time.monotonic() - began < DISCONNECT_SECONDS:
            time.sleep(SHORTEST_PAUSE)
            left = self.store.add("left", 0)


def as_bytes(content: bytes) -> Tensor:
    """uint8 [N]"""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def join(here: RankInfo, timeout: float, rendezvous_timeout: float) -> ProcessGroupWorld:
    """Connect to the other ranks at the address in the environment. Raises UnavailableError or UsageError.

    timeout: seconds that a collective operation waits for another rank.
    """
    try:
        with silence():  # torch's transports print what the error below reports
            store = rendezvous_store(here, rendezvous_timeout)
            world = ProcessGroupWorld(here, PrefixStore("tlkit", store))
            world.barrier(rendezvous_timeout)  # init_process_group would wait too, but block signals
            dist.init_process_group(
                f"cpu:gloo,{GPU}:nccl" if torch.get_device_module(GPU).is_available() else "gloo",
                store=PrefixStore("group", store),
                rank=here.rank,
                world_size=here.size,
                timeout=timedelta(seconds=timeout),
            )
            world.all_reduce_max(0)  # connects the ranks now, so that a failure to connect is reported here
    except (RuntimeError, ValueError, OSError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}" if LAUNCHER not in os.environ else "ranks"
        raise UnavailableError(where, explain_failed_join(here, error, rendezvous_timeout), RENDEZVOUS_HINT) from error
    return world


def rendezvous_store(here: RankInfo, timeout: float) -> Store:
    """The store that all ranks share: under `tlkit --processes` a private file, else the one of torchrun."""
    folder = os.environ.get(LAUNCHER)
    if folder is not None:
        return FileStore(os.path.join(folder, f"meeting-{attempt()}"), here.size)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise UsageError(name, "the environment variable is not set, but RANK is; torchrun sets both")
    if here.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        # Fails if the port is in use: torch would take the process that listens there for a store, and wait.
        socket.create_server(("", int(os.environ["MASTER_PORT"]))).close()
    store: Store = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))[0]
    return store


RENDEZVOUS_HINT = (
    "Every rank must reach that address and port, and the other ranks; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name "
    "the network interface to use."
)


def explain_failed_join(here: RankInfo, error: Exception, timeout: float) -> str:
    """The reason for which ranks could not connect."""
    text = first_line(error)
    if "EADDRINUSE" in text or "address already in use" in text.lower():
        return f"the port is in use{on_host(here)}, so {here} cannot wait there for the other ranks"
    if any(words in text.lower() for words in ("timed out", "timeout", "time out")):
        return f"{here} could not connect to the other ranks within {timeout:g} seconds"
    return f"{here} could not connect to the other ranks ({text})"
