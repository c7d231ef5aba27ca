"""tlkit report: write a self-contained HTML page about a run."""

from __future__ import annotations

import os

from tlkit.errors import DONE, DataError, MissingInputError
from tlkit.files.run_folder import RunFolder
from tlkit.options import ReportOptions
from tlkit.reports.gather import gather, write_page
from tlkit.terminal import write_stdout


def report(options: ReportOptions) -> int:
    """Write the report of a run and print its path. Returns the exit status."""
    if not os.path.exists(options.run):
        raise MissingInputError(options.run, "no such run folder")
    run = RunFolder.containing(options.run)
    if run is None:
        raise DataError(options.run, "is not a run folder: it has no options.json")
    named = RunFolder(options.run)
    shown = named if os.path.exists(named.options_file) else run
    path = options.output or shown.report_file
    write_page(gather(run, options.data), path, inside=None if options.output else shown.root)
    write_stdout(os.fsencode(f"{path}\n"))
    return DONE
