"""Shared options: the processes (ranks) of a command, and how long they wait for each other."""

from __future__ import annotations

from dataclasses import dataclass

from tlkit.errors import UsageError
from tlkit.options.declare import option
from tlkit.options.devices import names_one_gpu

PROCESSES = "Processes on this machine; each uses one GPU"


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    """Options of every command that can run as several processes."""

    rank_timeout: float = option(
        1800.0, "Seconds to wait for another process within a step", group="Several devices",
        minimum=1, maximum=1e6, stored=False,
    )  # fmt: skip
    rendezvous_timeout: float = option(
        300.0, "Seconds to wait for all processes to start", group="Several devices",
        minimum=1, maximum=1e6, stored=False,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RestartOptions(RankOptions):
    """Options of commands that can resume from a checkpoint after a process died."""

    max_restarts: int = option(
        0, "Restart up to N times if a process dies", group="Several devices", minimum=0, stored=False
    )


def check_ranks(processes: int | None, device: str | None, parallel: str | None, max_restarts: int = 0) -> None:
    """Raises UsageError for invalid combinations. None: not given."""
    if processes is not None and processes > 1 and names_one_gpu(device):
        raise UsageError(
            f"--device {device}", f"is one GPU, but --processes {processes} need one each; use --device cuda"
        )
    if processes is not None and processes > 1 and parallel not in (None, "none"):
        raise UsageError(f"--parallel {parallel}", f"runs in one process, but --processes is {processes}")
    if max_restarts and processes == 1:
        raise UsageError(
            "--max-restarts", "needs --processes 2 or more; with torchrun, use the --max-restarts of torchrun"
        )
