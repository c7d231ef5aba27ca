"""The options by which a run is watched."""

from __future__ import annotations

from dataclasses import dataclass

from tlkit.declarations import Options, argument, option
from tlkit.errors import UsageError

LOGS = ("tensorboard", "wandb")
"""What --log knows; as in output/monitoring.py, which options do not import."""


@dataclass(frozen=True, kw_only=True)
class MonitoringOptions:
    """Where a run is logged beside history.jsonl."""

    log: list[str] | None = option(
        None,
        "Also log the run to tensorboard or wandb; may be given for each. Needs tlkit[tensorboard] or tlkit[wandb].",
        metavar="NAME",
    )

    def check_monitoring_options(self) -> None:
        """Raises UsageError for a tool that is not known."""
        for name in self.log or ():
            if name not in LOGS:
                raise UsageError("--log", f"{name!r} is not known; expected {', '.join(LOGS)}")


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """tlkit report"""

    run: str = argument("Run folder.")
    output: str | None = option(
        None, "File to write. Default: report.html in the run folder.", short="-o", metavar="FILE"
    )
    data: str | None = option(None, "Where the images are now, if they have moved.", metavar="DIR")
