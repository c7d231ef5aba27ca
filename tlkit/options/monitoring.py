"""Options of --log and of the report command."""

from __future__ import annotations

from dataclasses import dataclass

from tlkit.errors import UsageError
from tlkit.options.declare import Options, argument, did_you_mean, option

LOGS = ("tensorboard", "wandb")
"""The tools of --log; monitoring/monitor.py has the same list, which options do not import."""

NOWHERE = "none"


@dataclass(frozen=True, kw_only=True)
class MonitoringOptions:
    """Tools that a run is logged to, besides history.jsonl."""

    log: list[str] | None = option(
        None, "Also log to this tool; may be repeated", group="Checkpoints and logging", shown="none",
        metavar="tensorboard|wandb|none",
    )  # fmt: skip

    def check_monitoring_options(self) -> None:
        """Raises UsageError for an unknown tool."""
        for name in self.log or ():
            if name not in (known := (*LOGS, NOWHERE)):
                problem = f"{name!r} is not a valid value; expected {', '.join(known)}"
                raise UsageError("--log", problem, did_you_mean("--log", name, known))
        if self.log is not None and NOWHERE in self.log and self.sinks():
            raise UsageError(f"--log {NOWHERE}", f"cannot be combined with --log {self.sinks()[0]}")

    def sinks(self) -> list[str]:
        """The tools that the run is logged to."""
        return sinks_of(self.log)


def sinks_of(log: list[str] | None) -> list[str]:
    """The known tools in --log, which may come from another version."""
    return [name for name in log or () if name in LOGS]


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """tlkit report"""

    COMMON = ("output", "data")
    EXAMPLES = ("tlkit report runs/flowers", "tlkit report runs/flowers --output flowers.html")

    run: str = argument("Run folder")
    output: str | None = option(
        None, "File to write", group="Common", shown="report.html in the run folder", short="-o", metavar="FILE"
    )
    data: str | None = option(
        None, "Folder of images, if it has moved", group="Common", shown="the recorded path", metavar="DIR"
    )
