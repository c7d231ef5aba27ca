"""Every image of a folder looked at once, before any long work: what it is, or why it cannot be used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from tlkit.data.decode import Accepted, ImageInfo
from tlkit.data.decoders import open_decoder, worker_count
from tlkit.data.duplicates import DuplicateFinder, quick_hash
from tlkit.data.folder import Dataset, Sample
from tlkit.data.image_file import ImageError, reading
from tlkit.data.ordered_map import map_in_order
from tlkit.distributed.world import World
from tlkit.options.data import DataOptions
from tlkit.terminal import count, log_status, progress


def log_dataset(dataset: Dataset) -> None:
    """What was found, for people."""
    log_status("data", describe(dataset))
    for warning in dataset.warnings:
        log_status("warning", warning)


def errors_of_all(
    errors: Sequence[tuple[int, ImageError]], samples: Sequence[Sample], world: World
) -> list[ImageError]:
    """What every rank found wrong, in the order of the images' numbers, in all of them: each has its own paths."""
    found = world.all_gather_object([[number, e.code, e.message] for number, e in errors])
    wrong = sorted(entry for rank in found for entry in rank)
    return [ImageError(samples[number].path, code, message) for number, code, message in wrong]


def describe(dataset: Dataset) -> str:
    """What was found, for people."""
    train, val = count(len(dataset.train), "training image"), count(len(dataset.val), "validation image")
    return f"{dataset.root}: {count(len(dataset.classes), 'class', 'classes')}, {train}, {val} ({dataset.shape})"


def accepted_by(options: DataOptions) -> Accepted:
    """Which images the options let in."""
    return Accepted(options.max_pixels, options.more_formats(), options.black_and_white())


@dataclass(frozen=True)
class Repeats:
    """Groups of samples that hold the same bytes: in training and in validation, under several classes, or neither."""

    across_parts: list[list[Sample]] = field(default_factory=list)
    across_classes: list[list[Sample]] = field(default_factory=list)
    harmless: list[list[Sample]] = field(default_factory=list)


@dataclass(frozen=True)
class ScanResult:
    """What a file is, or what is wrong with it; alike: the same as of others that may hold the same bytes."""

    found: ImageInfo | ImageError
    alike: int = 0


def scan_images(
    options: DataOptions, samples: Sequence[Sample], same: DuplicateFinder, thorough: bool = False
) -> Iterator[tuple[Sample, ImageInfo | ImageError]]:
    """Each image with what it is, or what is wrong with it; all that can be read are added to `same`.

    thorough: decode them; else header and end are looked at, see decode.check_file.
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
    """Sort the files of the same bytes by the harm that they do."""
    repeats, groups = Repeats(), same.groups(worker_count(workers))
    training = {id(sample) for sample in dataset.train} if groups else set()
    for group in groups:
        apart = len({id(sample) in training for sample in group}) > 1
        if apart:
            repeats.across_parts.append(group)
        if len({sample.label for sample in group}) > 1:
            repeats.across_classes.append(group)
        elif not apart:
            repeats.harmless.append(group)
    return repeats
