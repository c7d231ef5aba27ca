"""tlkit resume: go on exactly where a run stopped."""

from __future__ import annotations

import os

from tlkit import interruption
from tlkit.errors import DataError, MissingInputError
from tlkit.options import ResumeOptions
from tlkit.run_folder import RunFolder


def resume(options: ResumeOptions) -> int:
    """Go on with a run, in its folder or in a new one. Prints the path of its model; returns the exit status.

    The folder is locked before torch is loaded, which takes seconds.
    """
    if not os.path.exists(options.checkpoint):
        raise MissingInputError(options.checkpoint, "no such run folder or checkpoint")
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


def require_checkpoint_file(run: RunFolder) -> None:
    """Raises DataError for a folder that is no run folder, naming what of it can be resumed."""
    files = run.checkpoint_files()
    hint = f"Go on from its checkpoint: tlkit resume {files[0]} --out NEW" if files else ""
    raise DataError(run.path, "is not a run folder: it has no options.json", hint)
