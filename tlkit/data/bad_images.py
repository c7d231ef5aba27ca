"""Check that images are readable before training; refuse or skip bad ones. Loads no torch."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Iterable, Sequence

from tlkit.data.dark_images import DarkImages
from tlkit.data.duplicates import DuplicateFinder
from tlkit.data.folder import Dataset, Sample
from tlkit.data.image_file import ImageError
from tlkit.data.scan import Repeats, find_repeats, scan_images
from tlkit.errors import MOST_LISTED, DataError, escape_name, listing
from tlkit.files.json_file import path_fields, path_of, read_json_lines
from tlkit.files.run_folder import RunFolder
from tlkit.options.data import DataOptions
from tlkit.terminal import count, log_status


def check_images(options: DataOptions, dataset: Dataset, thorough: bool = False) -> Dataset:
    """Check header and end of every file before training; return the dataset of readable images.

    thorough: decode every image, which also finds damage in the middle of a file.
    Raises DataError that lists all bad files, unless --skip-bad allows to skip them.
    """
    bad: list[ImageError] = []
    animated: list[str] = []
    dark = DarkImages()
    same = DuplicateFinder()
    for sample, found in scan_images(options, dataset.images, same, thorough):
        if isinstance(found, ImageError):
            bad.append(found)
        else:
            animated += [sample.path] if found.frames > 1 else []
            dark.add(sample.path, found.peak)
    kept = without_bad(options, dataset, bad)
    warnings = [several_frames(animated)] if animated else []
    warnings += dark.warnings()
    warnings += repeat_warnings(options, find_repeats(dataset, same, options.workers))
    for warning in warnings:
        log_status("warning", warning)
    return dataclasses.replace(kept, warnings=(*kept.warnings, *warnings))


def several_frames(paths: Sequence[str]) -> str:
    """Warning about images with several frames."""
    files = count(len(paths), "image")
    return f"{files} with several frames or pages: only the first frame is used\n{listing(paths)}"


def without_bad(options: DataOptions, dataset: Dataset, bad: Sequence[ImageError]) -> Dataset:
    """Like `leave_out`, and log the images that are left out."""
    kept = leave_out(options, dataset, bad)
    log_left_out(bad)
    return kept


def log_left_out(bad: Sequence[ImageError]) -> None:
    """Warn about bad images that are left out, if any."""
    if bad:
        found = f"{count(len(bad), 'image')} cannot be read and {'is' if len(bad) == 1 else 'are'} left out"
        log_status("warning", f"{found}\n{listing(lines_of(bad))}")


def bad_images_error(data: str, bad: Sequence[ImageError], images: int) -> DataError:
    """The error for images that cannot be read. images: number of all."""
    problem = f"{count(len(bad), 'image')} of {images} cannot be read"
    if all(error.code == "not_found" for error in bad):
        advice = ["Restore them.", "If the folder has moved, name its new place with --data DIR."]
    else:
        advice = ["Repair or delete them; `tlkit check` also finds damage inside files."]
    advice += ["Or add --skip-bad to ignore them."]
    return DataError(data, problem, "\n".join(advice), lines_of(bad))


def lines_of(bad: Iterable[ImageError]) -> list[str]:
    """A line for each bad image."""
    return [f"{error.path}: {error.message}" for error in bad]


def error_fields(error: ImageError) -> dict[str, str]:
    """A bad image as JSON fields."""
    return {**path_fields(error.path), "code": error.code, "message": error.message}


def leave_out(options: DataOptions, dataset: Dataset, bad: Sequence[ImageError]) -> Dataset:
    """The dataset without bad images. Raises DataError without --skip-bad, or if too few images are left."""
    if not bad:
        return dataset
    images, skipped = len(dataset.images), (*dataset.skipped, *bad)
    error = bad_images_error(options.data, bad, images)
    if not options.skip_bad:
        raise error
    every = images + len(dataset.skipped)
    if len(skipped) > options.most_bad(every):
        problem = f"{error.problem}; --skip-bad ignores at most {options.most_bad(every)}"
        share = math.ceil(100 * len(skipped) / every) / 100
        advice = f"Repair or delete them.\nOr allow more with --max-bad {share:g}"
        raise DataError(options.data, problem, advice, error.listed)
    names = {error.path for error in bad}
    kept = dataclasses.replace(
        dataset,
        train=[s for s in dataset.train if s.path not in names],
        val=[s for s in dataset.val if s.path not in names],
        skipped=skipped,
    )
    lost = set(range(len(dataset.classes))) - {s.label for s in kept.train}
    if lost or not kept.val:
        empty = ", ".join(escape_name(dataset.classes[label]) for label in sorted(lost)) or "the validation images"
        raise DataError(options.data, f"no readable images are left in {empty}", listed=error.listed)
    return kept


def repeat_warnings(options: DataOptions, repeats: Repeats) -> list[str]:
    """Warnings about harmful duplicates. Raises DataError under --strict."""
    problems = []
    if repeats.across_parts:
        problems.append(f"{pictures(repeats.across_parts)} in both training and validation")
    if repeats.across_classes:
        problems.append(f"{pictures(repeats.across_classes)} in several classes")
    listings = [group_lines(groups) for groups in (repeats.across_parts, repeats.across_classes) if groups]
    if problems and options.strict:
        advice = "Delete the copies, or omit --strict to get a warning only."
        raise DataError(options.data, "; ".join(problems), advice, itertools.chain(*listings))
    return [f"{problem}\n{listing(lines)}" for problem, lines in zip(problems, listings, strict=True)]


def pictures(groups: list[list[Sample]]) -> str:
    """1 picture is; 2 pictures are"""
    return f"{count(len(groups), 'picture')} {'is' if len(groups) == 1 else 'are'}"


def group_lines(groups: list[list[Sample]]) -> list[str]:
    """One line per picture with its identical files; at most MOST_LISTED."""
    return [" = ".join(sample.path for sample in group[:MOST_LISTED]) for group in groups]


def read_skipped(run: RunFolder) -> tuple[ImageError, ...]:
    """Read skipped.jsonl. Raises DataError, or another error if it is damaged."""
    if not os.path.exists(run.skipped_file):
        return ()
    rows = read_json_lines(run.skipped_file, "code", "message")
    return tuple(ImageError(path_of(row), row["code"], row["message"]) for row in rows)


def write_skipped(run: RunFolder, skipped: Sequence[ImageError]) -> None:
    """Write skipped.jsonl."""
    rows = [json.dumps(error_fields(error)) + "\n" for error in skipped]
    run.write(run.skipped_file, lambda file: file.write("".join(rows).encode()))
