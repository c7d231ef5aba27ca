"""tlkit resume: go on exactly where a run stopped."""

from __future__ import annotations

import dataclasses
import os

from tlkit import interruption
from tlkit.commands.tuning.search_folder import SearchFolder
from tlkit.declarations import flag_of
from tlkit.errors import DataError, MissingInputError, UsageError
from tlkit.options import ResumeOptions
from tlkit.run_folder import RunFolder


def resume(options: ResumeOptions) -> int:
    """Go on with a run, in its folder or in a new one. Prints the path of its model; returns the exit status.

    The folder is locked before torch is loaded, which takes seconds.
    """
    if not os.path.exists(options.checkpoint):
        raise MissingInputError(options.checkpoint, "no such run folder or checkpoint")
    if SearchFolder(options.checkpoint).exists():
        return resume_search(options)
    run = RunFolder.containing(options.checkpoint)
    if run is None and os.path.isdir(options.checkpoint):
        require_checkpoint_file(RunFolder(options.checkpoint))
    if run is None or options.out is not None:
        from tlkit.commands.continuation import continue_elsewhere

        return continue_elsewhere(run, options)
    with run.locked(), interruption.handled("stopping") as signals:
        run.remove_leftovers()
        from tlkit.commands.continuation import continue_in_place

        return continue_in_place(run, options, signals)


def resume_search(options: ResumeOptions) -> int:
    """Finish a search. Raises UsageError for what a run alone can be given anew."""
    for field in dataclasses.fields(options):
        if field.name not in ("checkpoint", "debug", "trust_pickle") and getattr(options, field.name) is not None:
            hint = f"tlkit tune --resume {options.checkpoint} takes what a search can be given anew."
            raise UsageError(flag_of(field.name), "is for runs, and this is a search", hint)
    from tlkit.commands.tune import resume_search

    return resume_search(SearchFolder(options.checkpoint), {}, options.trust_pickle)


def require_checkpoint_file(run: RunFolder) -> None:
    """Raises DataError for a folder that is no run folder, naming what of it can be resumed."""
    files = run.checkpoint_files()
    hint = f"Go on from its checkpoint: tlkit resume {files[0]} --out NEW" if files else ""
    raise DataError(run.path, "is not a run folder: it has no options.json", hint)
