"""tlkit resume: continue a run or a search exactly where it stopped."""

from __future__ import annotations

import dataclasses
import os
import shlex
from contextlib import suppress
from typing import TypeVar

from tlkit.distributed.env import is_nonzero_rank
from tlkit.distributed.launch import is_for_ranks, launch
from tlkit.errors import DataError, MissingInputError, TlkitError, UsageError
from tlkit.files.new_run import free_name
from tlkit.files.run_folder import RunFolder
from tlkit.monitoring.monitor import require_installed
from tlkit.options import ResumeOptions
from tlkit.options.declare import flag_of
from tlkit.options.monitoring import sinks_of
from tlkit.runs.machine import within_machine
from tlkit.runs.reopen import reopen, run_before_restart
from tlkit.tuning.search_folder import SearchFolder

Value = TypeVar("Value")


def resume(options: ResumeOptions) -> int:
    """Resume a run, in its folder or in a new one. Prints the path of its model; returns the exit status.

    The run folder is locked before torch is loaded, which takes seconds.
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
        files = RunFolder(options.checkpoint).checkpoint_files()
        again = shlex.join(["tlkit", "resume", *files[:1], "--out", free_name(options.checkpoint)])
        hint = f"Resume from its checkpoint with: {again}" if files else ""
        raise DataError(options.checkpoint, "is not a run folder: it has no options.json", hint)
    require_installed(sinks_of(recorded_option(run, "log", [])) if options.log is None else options.sinks())
    recorded = {"processes": recorded_option(run, "processes", 1)}
    processes = options.processes or within_machine(recorded, "processes") or 1
    if is_for_ranks(processes):
        device = options.device or recorded_option(run, "device", "auto")
        return launch("resume", options, device, processes, options.max_restarts)
    earlier = run_before_restart()
    if earlier is not None:
        return reopen(earlier, dataclasses.replace(options, checkpoint=earlier.path, out=None), options)
    if run is None or options.out is not None or options.accept_changed_data:
        from tlkit.runs.resume import resume_in_new_folder

        return resume_in_new_folder(run, options)
    return reopen(run, options, options)


def recorded_option(run: RunFolder | None, name: str, default: Value) -> Value:
    """An option of a run as recorded; the default if it is not known."""
    if run is not None:
        with suppress(TlkitError):
            value = run.read_options()["resolved"].get(name)
            return value if isinstance(value, type(default)) else default
    return default


def resume_search(options: ResumeOptions) -> int:
    """Resume a search. Raises UsageError for options that apply to single runs."""
    for field in dataclasses.fields(options):
        if field.name not in ("checkpoint", "debug", "trust_pickle") and getattr(options, field.name) != field.default:
            hint = "For the options that a search can change: tlkit tune --help"
            raise UsageError(flag_of(field.name), "cannot be changed when a search is resumed", hint)
    from tlkit.tuning.start import resume_search

    return resume_search(SearchFolder(options.checkpoint), {}, options.trust_pickle)
