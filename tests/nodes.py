"""Two machines in one: network namespaces with a wire between them, in which torchrun starts ranks."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

PORT = 29417


@dataclass(frozen=True)
class Node:
    """A network namespace with one address."""

    number: int
    name: str
    address: str
    interface: str = "wire"

    def torchrun(
        self, first: str, arguments: Sequence[object], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start `torchrun -m tlkit ARGUMENTS` as one of two nodes, with a rank. first: the address of node 0."""
        place = ["--nnodes", "2", "--node-rank", str(self.number), "--nproc-per-node", "1"]
        where = ["--master-addr", first, "--master-port", str(PORT)]
        command = [sys.executable, "-m", "torch.distributed.run", *place, *where, "-m", "tlkit", *map(str, arguments)]
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "GLOO_SOCKET_IFNAME": self.interface, "OMP_NUM_THREADS": "1", **(environment or {})},
        )


def can_make_nodes() -> bool:
    """Whether this user may make network namespaces here."""
    if shutil.which("ip") is None:
        return False
    name = f"tlkit-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], check=True)
    return made


@contextlib.contextmanager
def two_nodes() -> Iterator[tuple[Node, Node]]:
    """Two nodes that reach each other and nothing else."""
    nodes = tuple(Node(number, f"tlkit-{os.getpid()}-{number}", f"10.77.0.{number + 1}") for number in range(2))
    one, two = nodes
    try:
        for node in nodes:
            ip("netns", "add", node.name)
        wire = ["netns", one.name, "type", "veth", "peer", "name", two.interface, "netns", two.name]
        ip("link", "add", one.interface, *wire)
        for node in nodes:
            ip("-n", node.name, "addr", "add", f"{node.address}/24", "dev", node.interface)
            for interface in ("lo", node.interface):
                ip("-n", node.name, "link", "set", interface, "up")
        yield one, two
    finally:
        for node in nodes:
            subprocess.run(["ip", "netns", "del", node.name], capture_output=True)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
