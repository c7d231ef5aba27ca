"""Reopen a run folder and resume training in it."""

from __future__ import annotations

from tlkit import interruption
from tlkit.distributed.failures import earlier_run, write_note
from tlkit.distributed.join import joined
from tlkit.files.run_folder import RunFolder
from tlkit.options import ResumeOptions
from tlkit.options.declare import Options
from tlkit.options.ranks import RestartOptions
from tlkit.runs.consistency import require_same_options


def go_on(run: RunFolder, options: ResumeOptions, typed: RestartOptions) -> int:
    """Go on with a run in its own folder. typed: the options that all ranks were started with."""
    assert isinstance(typed, Options)
    with run.locked(), interruption.handled("stopping") as signals, joined(typed) as world:
        write_note("run", run.path)
        require_same_options(typed, world)
        run.remove_leftovers()
        from tlkit.runs.resume import continue_in_place

        return continue_in_place(run, options, signals, world)


def run_before_restart() -> RunFolder | None:
    """The run of the ranks before these, which the agent has restarted, if that can be gone on with."""
    earlier = earlier_run()
    return RunFolder.containing(earlier) if earlier is not None else None
