"""Scan every image of a dataset once before training: format, size, errors and duplicates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from tlkit.data.decode import ImageInfo
from tlkit.data.decoders import open_decoder, worker_count
from tlkit.data.duplicates import DuplicateFinder, quick_hash
from tlkit.data.folder import Dataset, Sample
from tlkit.data.header import Accepted
from tlkit.data.image_file import ImageError, reading
from tlkit.data.ordered_map import map_in_order
from tlkit.distributed.world import World
from tlkit.options.data import DataOptions
from tlkit.terminal import count, log_status, progress


def log_dataset(dataset: Dataset) -> None:
    """Log a summary of the dataset and its warnings."""
    log_status("data", describe(dataset))
    if str(dataset.left_out):
        log_status("data", f"left out: {dataset.left_out}")
    for warning in dataset.warnings:
        log_status("warning", warning)


def errors_of_all(
    errors: Sequence[tuple[int, ImageError]], samples: Sequence[Sample], world: World
) -> list[ImageError]:
    """The errors of all ranks, ordered by image number, on every rank (with the paths of that rank)."""
    found = world.all_gather_object([(number, e.code, e.message) for number, e in errors])
    wrong = sorted(entry for rank in found for entry in rank)
    return [ImageError(samples[number].path, code, message) for number, code, message in wrong]


def describe(dataset: Dataset) -> str:
    """Return a one-line summary of the dataset."""
    train, val = count(len(dataset.train), "training image"), count(len(dataset.val), "validation image")
    images = count(len(dataset.images), "image") if dataset.folds else f"{train}, {val}"
    table = f"table with sha256 {dataset.table[:12]}, " if dataset.table else ""
    return f"{dataset.root}: {count(len(dataset.classes), 'class', 'classes')}, {images} ({table}{dataset.shape})"


def accepted_by(options: DataOptions) -> Accepted:
    """The limits and formats for images that the options set."""
    float_range, integer_range = options.ranges()
    return Accepted(options.max_pixels, options.more_formats(), float_range, integer_range=integer_range)


@dataclass(frozen=True)
class Repeats:
    """Groups of identical files: across train and validation, across classes, or neither (harmless)."""

    across_parts: list[list[Sample]] = field(default_factory=list)
    across_classes: list[list[Sample]] = field(default_factory=list)
    harmless: list[list[Sample]] = field(default_factory=list)


@dataclass(frozen=True)
class ScanResult:
    """Info about an image, or its error. alike: quick hash, equal for files that may be identical."""

    found: ImageInfo | ImageError
    alike: int = 0


def scan_images(
    options: DataOptions, samples: Sequence[Sample], same: DuplicateFinder, thorough: bool = False
) -> Iterator[tuple[Sample, ImageInfo | ImageError]]:
    """Yield each image with its info or error; readable images are added to `same`.

    thorough: decode every image; otherwise check header and end of file only, see decode.check_file.
    """
    workers, accepted = worker_count(options.workers), accepted_by(options)
    with closing(open_decoder(workers)) as decoder:

        def look_once(sample: Sample) -> ScanResult:
            try:
                with sample.open() as file:
                    with reading(sample.path):
                        alike = quick_hash(file)
                    return ScanResult(decoder.check_file(sample.path, file, accepted, thorough), alike)
            except ImageError as error:
                return ScanResult(error)

        outcomes = map_in_order(look_once, samples, workers=workers, ahead=256)
        for sample, look in zip(samples, progress(outcomes, "checking", len(samples)), strict=True):
            if not isinstance(look.found, ImageError):
                same.add(sample, look.alike)
            yield sample, look.found


def find_repeats(dataset: Dataset, same: DuplicateFinder, workers: int | None) -> Repeats:
    """Classify groups of identical files by the harm that they do."""
    repeats, groups = Repeats(), same.groups(worker_count(workers))
    training = {sample.path for sample in dataset.train} if groups else set()
    for group in groups:
        apart = len({dataset.folds.get(path, path in training) for path, _ in group}) > 1
        if apart:
            repeats.across_parts.append(group)
        if len({sample.label for sample in group}) > 1:
            repeats.across_classes.append(group)
        elif not apart:
            repeats.harmless.append(group)
    return repeats
