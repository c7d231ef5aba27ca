"""Reopen a run folder and resume training in it. Loads no torch before the folder is locked."""

from __future__ import annotations

from tlkit import interruption
from tlkit.distributed.failures import read_note, write_note
from tlkit.distributed.join import joined
from tlkit.files.run_folder import RunFolder
from tlkit.options import ResumeOptions
from tlkit.options.declare import Options
from tlkit.options.ranks import RestartOptions
from tlkit.runs.consistency import require_same_options


def reopen(run: RunFolder, options: ResumeOptions, cli_options: RestartOptions) -> int:
    """Resume a run in its own folder. cli_options: as given to all ranks. Returns the exit status."""
    assert isinstance(cli_options, Options)
    with run.locked(), interruption.handled("stopping") as signals, joined(cli_options) as world:
        write_note("run", run.path)
        require_same_options(cli_options, world)
        run.remove_leftovers()
        from tlkit.runs.resume import resume_in_place

        return resume_in_place(run, options, signals, world)


def run_before_restart() -> RunFolder | None:
    """The run of these ranks before the launcher restarted them, if it can be resumed."""
    earlier = read_note("run", str)
    return RunFolder.containing(earlier) if earlier is not None else None
