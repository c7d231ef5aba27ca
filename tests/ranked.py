"""Several ranks in a test: threads that add up together, forked runs of tlkit that meet by a file, or a launcher's."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from tests.forked import Forked, Warm
from tlkit.distributed.env import LAUNCHER, RankInfo
from tlkit.distributed.world import World

Result = TypeVar("Result")


class Thread(World):
    """A rank that is a thread of this process."""

    def __init__(self, rank: int, size: int, meeting: threading.Barrier, table: list[Any]) -> None:
        self.rank, self.size, self.place = rank, size, RankInfo(rank, size, rank, size)
        self.meeting, self.table = meeting, table

    def all_gather_object(self, value: Any) -> list[Any]:
        self.table[self.rank] = value
        self.meeting.wait(60)
        everywhere = list(self.table)
        self.meeting.wait(60)
        return everywhere

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        first, *others = self.all_gather_object(values.detach().clone())
        return sum(others, first)

    def all_reduce_max(self, number: int) -> int:
        return max(self.all_gather_object(number))


def in_threads(size: int, work: Callable[[World], Result]) -> list[Result]:
    """The result of the same work on each rank."""
    meeting, table = threading.Barrier(size), [None] * size
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: work(Thread(rank, size, meeting, table)), range(size)))


def start_ranks(
    warm: Warm,
    size: int,
    arguments: Sequence[object],
    *,
    others: Sequence[object] | None = None,
    environment: Mapping[str, str] | None = None,
    hooks: Mapping[int, Mapping[str, Any]] | None = None,
) -> list[Forked]:
    """Start ranks as a launcher would. others: the arguments of all but the first; hooks: of some, by rank."""
    folder = tempfile.mkdtemp(dir=warm.folder)
    started = []
    for rank in range(size):
        place = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
        notes = Path(folder) / "attempt" / str(rank)
        notes.mkdir(parents=True)
        as_launched = {
            **{name: str(value) for name, value in place.items()},
            LAUNCHER: folder,
            "TORCHELASTIC_ERROR_FILE": str(notes / "error.json"),
            "GLOO_SOCKET_IFNAME": "lo",
            **(environment or {}),
        }
        words = arguments if rank == 0 or others is None else others
        started.append(warm.start(words, environment=as_launched, **(hooks or {}).get(rank, {})))
    return started


def reported_errors(warm: Warm) -> list[str]:
    """The errors that ranks left for the launcher, oldest first."""
    notes = [json.loads(file.read_text()) for file in warm.folder.glob("*/attempt/*/error.json")]
    return [note["message"]["message"] for note in sorted(notes, key=lambda note: note["time"])]


def run_ranks(warm: Warm, size: int, arguments: Sequence[object], **how: Any) -> tuple[int, str, str]:
    """Exit status and streams of the first of so many ranks; one alone is a process as any. All must end well."""
    ranks = start_ranks(warm, size, arguments, **how) if size > 1 else [warm.start(arguments)]
    statuses = [rank.wait() for rank in ranks]
    assert statuses[1:] == [0] * (size - 1), (statuses, ranks[0].err.read_text(), reported_errors(warm))
    assert [rank.out.read_text() + rank.err.read_text() for rank in ranks[1:]] == [""] * (size - 1)
    return statuses[0], ranks[0].out.read_text(), ranks[0].err.read_text()


def ranks_of(launcher: subprocess.Popen[str]) -> dict[int, int]:
    """The process number of each rank that has been started."""
    found: dict[int, int] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                variables = (process / "environ").read_bytes().split(b"\0") if parent == launcher.pid else []
            except OSError:
                continue
            found |= {int(v[5:]): int(process.name) for v in variables if v.startswith(b"RANK=")}
    return found


def descendants(numbers: list[int]) -> list[int]:
    """The processes that these have started."""
    children: list[int] = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children += [int(process.name)] if parent in numbers else []
    return [*children, *(descendants(children) if children else [])]


def is_there(number: int) -> bool:
    """Whether a process is alive; what only waits to be taken note of is not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
