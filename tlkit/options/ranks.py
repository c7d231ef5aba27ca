"""How many processes share a command's work, and how long they wait for each other."""

from __future__ import annotations

from dataclasses import dataclass

from tlkit.errors import UsageError
from tlkit.options.declare import option

PROCESSES = (
    "Ranks on this machine that share the work: processes, each with a GPU of its own where the device is one. "
    "For several machines use torchrun, see docs/distributed.md."
)


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    """What every command takes that ranks can share."""

    rank_timeout: float = option(
        1800.0,
        "How long ranks wait for each other inside a step before they give up.",
        minimum=1,
        maximum=1e6,
        metavar="SECONDS",
        stored=False,
    )
    rendezvous_timeout: float = option(
        300.0,
        "How long ranks wait at the start for all of them to come.",
        minimum=1,
        maximum=1e6,
        metavar="SECONDS",
        stored=False,
    )


@dataclass(frozen=True, kw_only=True)
class RestartOptions(RankOptions):
    """What commands take that can go on from a checkpoint when a rank has died."""

    max_restarts: int = option(
        0, "Start all ranks again so many times when one has died; they go on from the last checkpoint.", minimum=0,
        stored=False,
    )  # fmt: skip


def check_ranks(processes: int | None, device: str | None, parallel: str | None, max_restarts: int = 0) -> None:
    """Raises UsageError for values that do not go together. What is None is as before."""
    if processes is not None and processes > 1 and device is not None and device.startswith("cuda:"):
        raise UsageError(f"--device {device}", f"is one GPU, but --processes {processes} need one each; give cuda")
    if processes is not None and processes > 1 and parallel not in (None, "none"):
        raise UsageError(f"--parallel {parallel}", f"is for one process, but --processes is {processes}")
    if max_restarts and processes == 1:
        raise UsageError("--max-restarts", "needs --processes 2 or more; under torchrun give it to torchrun")
