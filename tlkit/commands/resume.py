"""tlkit resume: go on exactly where a run stopped."""

from __future__ import annotations

import dataclasses
import os
from contextlib import suppress
from typing import Any

from tlkit.distributed.env import is_nonzero_rank
from tlkit.distributed.launch import is_for_ranks, launch
from tlkit.errors import DataError, MissingInputError, TlkitError, UsageError
from tlkit.files.run_folder import RunFolder
from tlkit.monitoring.monitor import require_installed
from tlkit.options import ResumeOptions
from tlkit.options.declare import flag_of
from tlkit.options.monitoring import sinks_of
from tlkit.runs.reopen import go_on, run_before_restart
from tlkit.tuning.folder import SearchFolder


def resume(options: ResumeOptions) -> int:
    """Go on with a run, in its folder or in a new one. Prints the path of its model; returns the exit status.

    The folder is locked before torch is loaded, which takes seconds.
    """
    if is_nonzero_rank():
        from tlkit.runs.worker import run_worker

        return run_worker(options)
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
        from tlkit.runs.resume import continue_elsewhere

        return continue_elsewhere(run, options)
    return go_on(run, options, options)


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
    from tlkit.tuning.start import resume_search

    return resume_search(SearchFolder(options.checkpoint), {}, options.trust_pickle)


def require_checkpoint_file(run: RunFolder) -> None:
    """Raises DataError for a folder that is no run folder, naming what of it can be resumed."""
    files = run.checkpoint_files()
    hint = f"Go on from its checkpoint: tlkit resume {files[0]} --out NEW" if files else ""
    raise DataError(run.path, "is not a run folder: it has no options.json", hint)
