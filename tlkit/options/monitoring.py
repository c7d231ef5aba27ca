"""The options by which a run is watched."""

from __future__ import annotations

from dataclasses import dataclass

from tlkit.errors import UsageError
from tlkit.options.declare import Options, argument, option

LOGS = ("tensorboard", "wandb")
"""What --log knows; as in output/monitoring.py, which options do not import."""


NOWHERE = "none"


@dataclass(frozen=True, kw_only=True)
class MonitoringOptions:
    """Where a run is logged beside history.jsonl."""

    log: list[str] | None = option(
        None,
        "Also log the run to tensorboard or wandb; may be given for each. Needs tlkit[tensorboard] or tlkit[wandb]. "
        "none: a run that was logged goes on without.",
        metavar="NAME",
    )

    def check_monitoring_options(self) -> None:
        """Raises UsageError for a tool that is not known."""
        for name in self.log or ():
            if name not in (*LOGS, NOWHERE):
                raise UsageError("--log", f"{name!r} is not known; expected {', '.join((*LOGS, NOWHERE))}")
        if self.log is not None and NOWHERE in self.log and self.sinks():
            raise UsageError(f"--log {NOWHERE}", f"does not go with --log {self.sinks()[0]}")

    def sinks(self) -> list[str]:
        """Where the run is logged."""
        return sinks_of(self.log)


def sinks_of(log: list[str] | None) -> list[str]:
    """Those that a --log, perhaps of a run from elsewhere, names."""
    return [name for name in log or () if name in LOGS]


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """tlkit report"""

    run: str = argument("Run folder.")
    output: str | None = option(
        None, "File to write. Default: report.html in the run folder.", short="-o", metavar="FILE"
    )
    data: str | None = option(None, "Where the images are now, if they have moved.", metavar="DIR")
