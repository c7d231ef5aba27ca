"""tlkit resume: go on exactly where a run stopped."""

from __future__ import annotations

import dataclasses
import os
from contextlib import suppress
from typing import Any

from tlkit import interruption
from tlkit.commands.agreement import require_same_options
from tlkit.commands.joining import joined
from tlkit.commands.launch import is_for_ranks, launch
from tlkit.commands.tuning.search_folder import SearchFolder
from tlkit.declarations import Options, flag_of
from tlkit.errors import DataError, MissingInputError, TlkitError, UsageError
from tlkit.options import ResumeOptions
from tlkit.options.monitoring import sinks_of
from tlkit.options.ranks import RestartOptions
from tlkit.output.monitoring import require_installed
from tlkit.ranks import earlier_run, is_follower, note
from tlkit.run_folder import RunFolder


def resume(options: ResumeOptions) -> int:
    """Go on with a run, in its folder or in a new one. Prints the path of its model; returns the exit status.

    The folder is locked before torch is loaded, which takes seconds.
    """
    if is_follower():
        from tlkit.commands.following import follow

        return follow(options)
    if not os.path.exists(options.checkpoint):
        raise MissingInputError(options.checkpoint, "no such run folder or checkpoint")
    if SearchFolder(options.checkpoint).exists():
        return resume_search(options)
    run = RunFolder.containing(options.checkpoint)
    if run is None and os.path.isdir(options.checkpoint):
        require_checkpoint_file(RunFolder(options.checkpoint))
    require_installed(sinks_of(recorded_before(run, "log", [])) if options.log is None else options.sinks())
    processes = options.processes or recorded_before(run, "processes", 1)
    if is_for_ranks(processes):
        device = options.device or recorded_before(run, "device", "auto")
        return launch("resume", options, device, processes, options.max_restarts)
    earlier = run_before_restart()
    if earlier is not None:
        return go_on(earlier, dataclasses.replace(options, checkpoint=earlier.path, out=None), options)
    if run is None or options.out is not None:
        from tlkit.commands.continuation import continue_elsewhere

        return continue_elsewhere(run, options)
    return go_on(run, options, options)


def go_on(run: RunFolder, options: ResumeOptions, typed: RestartOptions) -> int:
    """Go on with a run in its own folder. typed: the options that all ranks were started with."""
    assert isinstance(typed, Options)
    with run.locked(), interruption.handled("stopping") as signals, joined(typed) as world:
        note("run", run.path)
        require_same_options(typed, world)
        run.remove_leftovers()
        from tlkit.commands.continuation import continue_in_place

        return continue_in_place(run, options, signals, world)


def run_before_restart() -> RunFolder | None:
    """The run of the ranks before these, which the agent has restarted, if that can be gone on with."""
    earlier = earlier_run()
    return RunFolder.containing(earlier) if earlier is not None else None


def recorded_before(run: RunFolder | None, name: str, default: Any) -> Any:
    """An option as the run was started with; the default if that is not known."""
    if run is not None:
        with suppress(TlkitError):
            value = run.read_options()["resolved"].get(name)
            return value if isinstance(value, type(default)) else default
    return default


def resume_search(options: ResumeOptions) -> int:
    """Finish a search. Raises UsageError for what a run alone can be given anew."""
    for field in dataclasses.fields(options):
        if field.name not in ("checkpoint", "debug", "trust_pickle") and getattr(options, field.name) != field.default:
            hint = f"tlkit tune --resume {options.checkpoint} takes what a search can be given anew."
            raise UsageError(flag_of(field.name), "is for runs, and this is a search", hint)
    from tlkit.commands.tune import resume_search

    return resume_search(SearchFolder(options.checkpoint), {}, options.trust_pickle)


def require_checkpoint_file(run: RunFolder) -> None:
    """Raises DataError for a folder that is no run folder, naming what of it can be resumed."""
    files = run.checkpoint_files()
    hint = f"Go on from its checkpoint: tlkit resume {files[0]} --out NEW" if files else ""
    raise DataError(run.path, "is not a run folder: it has no options.json", hint)
