"""tlkit check: find problems of a dataset before training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from tlkit.data.bad_images import leave_out, repeat_warnings
from tlkit.data.dark_images import DarkImages
from tlkit.data.duplicates import DuplicateFinder
from tlkit.data.folder import Dataset
from tlkit.data.image_file import ImageError
from tlkit.data.scan import find_repeats, scan_images
from tlkit.data.sources import find_dataset
from tlkit.errors import DONE, DataError
from tlkit.options import CheckOptions
from tlkit.reports.check import REPORTS, Report
from tlkit.terminal import write_stdout

LONGEST_HINT = 5
"""Lines of a hint that are shown."""

TINY_SIDE = 32
"""Images with a shorter side than this, in pixels, are reported as tiny."""


def check(options: CheckOptions) -> int:
    """Print the contents and problems of a folder. Returns 65 if finetune would stop, else 0."""
    # Report as much as possible, even for a folder that finetune would refuse.
    dataset = find_dataset(dataclasses.replace(options, allow_one_class=True, drop_empty=True))
    report = Report(dataset)
    same, dark = DuplicateFinder(), DarkImages()
    for sample, found in scan_images(options, dataset.train + dataset.val, same, thorough=not options.quick):
        if isinstance(found, ImageError):
            report.bad.append(found)
        else:
            report.formats[found.format] += 1
            report.modes[found.mode] += 1
            report.sizes.append((found.width * found.height, found.width, found.height))
            if min(found.width, found.height) < TINY_SIDE:
                report.tiny.append(sample.path)
            dark.add(sample.path, found.peak)
            if found.frames > 1:
                report.several_frames.append(sample.path)
    report.repeats = find_repeats(dataset, same, options.workers)
    report.warnings += dataset.warnings
    report.warnings += dark.warnings()
    for problem in why_finetune_stops(options, dataset, report):
        report.stops.append(str(problem))
        hint = problem.hint.splitlines()
        report.hints += hint if len(hint) < LONGEST_HINT else []  # a longer one lists files, as the report does
    write_stdout(REPORTS[options.format](report))
    return DataError.exit_code if report.stops else DONE


def why_finetune_stops(options: CheckOptions, dataset: Dataset, report: Report) -> Iterator[DataError]:
    """The errors with which finetune would stop, given the same options (finetune reports only the first)."""
    for step in (
        lambda: find_dataset(options),
        lambda: leave_out(options, dataset, report.bad),
        lambda: repeat_warnings(options, report.repeats),
    ):
        try:
            step()
        except DataError as error:
            yield error
