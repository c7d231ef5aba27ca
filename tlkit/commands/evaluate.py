"""tlkit evaluate: a model measured on labelled images."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import islice

import numpy as np
import torch

from tlkit.data.bad_images import bad_images_error, log_left_out
from tlkit.data.class_folders import is_labelled, read_labelled
from tlkit.data.decoders import Pixels, open_decoder, worker_count
from tlkit.data.digests import hex_digests
from tlkit.data.folder import Dataset, Sample
from tlkit.data.image_file import ImageError
from tlkit.data.ordered_map import map_in_order
from tlkit.data.parts import Parts, find_parts
from tlkit.data.scan import errors_of_all
from tlkit.data.table import evaluation_samples
from tlkit.data.view import View
from tlkit.distributed.join import joined
from tlkit.distributed.launch import is_for_ranks, launch
from tlkit.distributed.sharding import gather_in_order, shard_indices
from tlkit.distributed.world import World
from tlkit.errors import DONE, SOME_INPUTS_FAILED, DataError, MissingInputError
from tlkit.files.run_folder import RunFolder
from tlkit.inference.open import open_predictor
from tlkit.inference.predictor import Predictor, require_finite
from tlkit.options import EvaluateOptions
from tlkit.options.data import is_table
from tlkit.reports.evaluation import FORMATS
from tlkit.runs.batches import labels_of
from tlkit.runs.consistency import require_same_environment, require_same_files, require_same_options
from tlkit.runs.environment import libraries
from tlkit.runs.out_of_fold import is_data_of, stored_result
from tlkit.terminal import count, log_status, progress, write_stdout
from tlkit.training.predictions import evaluate_rows, measured_rows


def evaluate(options: EvaluateOptions) -> int:
    """Print the figures of a model on a folder of class folders. Returns the exit status.

    Of several ranks each labels a share of the images, and the first prints.
    """
    if is_for_ranks(options.processes):
        return launch("evaluate", options, options.device, options.processes)
    with joined(options) as world:
        require_same_options(options, world)
        by_torch = options.engine == "auto" and not options.model.endswith(".onnx")
        model = open_predictor(dataclasses.replace(options, engine="torch") if by_torch else options, world.size)
        samples, what = samples_of_all(options, model.classes, world)
        require_same_files(options.data, samples, world)
        require_same_model(options, model, world)
        log_status("data", f"{what}: {count(len(samples), 'image')}")
        stored = world.broadcast_object(stored_result(options, samples) if world.is_first else None)
        if stored is not None:
            if world.is_first:
                write_stdout(FORMATS[options.format](stored, []))
            return DONE
        model.expect(len(samples))
        numbers, rows, bad = measure_share(options, model, samples, world)
        every = gather_in_order(numbers, rows, world, partial(np.empty, dtype=np.float64))
        if not world.is_first:
            return DONE
        if bad and not options.skip_bad:
            raise bad_images_error(options.data, bad, len(samples))
        if not len(every):
            raise DataError(options.data, "no readable image to evaluate on")
        result = evaluate_rows(every, model.classes)
        log_left_out(bad)
        write_stdout(FORMATS[options.format](result, bad))
        return SOME_INPUTS_FAILED if bad else DONE


def require_same_model(options: EvaluateOptions, model: Predictor, world: World) -> None:
    """Raises MismatchError at the first rank if another has another model, or computes otherwise with it."""
    if world.size > 1:
        from tlkit.model.open import model_sha256

        sha256 = {"sha256 of the model": model_sha256(options.model)}
        require_same_environment({"computing": model.computing, **sha256, **libraries()}, world)


def samples_of_all(options: EvaluateOptions, classes: tuple[str, ...], world: World) -> tuple[list[Sample], str]:
    """The images that rank 0 chooses, on all ranks: they may not see its run folder, or have images elsewhere."""
    samples, what = choose_samples(options, classes) if world.is_first else ([], "")
    if world.size == 1:
        return samples, what
    root = os.path.abspath(options.image_root(options.data))
    chosen = world.broadcast_object([(os.path.relpath(os.path.abspath(path), root), label) for path, label in samples])
    if world.is_first:
        return samples, what
    return [Sample(os.path.normpath(os.path.join(root, name)), label) for name, label in chosen], what


def measure_share(
    options: EvaluateOptions, model: Predictor, samples: list[Sample], world: World
) -> tuple[list[int], torch.Tensor, list[ImageError]]:
    """The numbers of this rank's images that can be read, their `measured_rows`, and the errors of the unreadable
    images of all ranks. Raises DataError if scores are not finite."""
    own = shard_indices(len(samples), options.batch_size, world)
    numbers, rows, errors = list[int](), list[torch.Tensor](), list[tuple[int, ImageError]]()
    view, workers = View(model.preprocessing, options.max_pixels), worker_count(options.workers)
    with closing(open_decoder(workers)) as decoder:

        def load(number: int) -> Pixels | ImageError:
            try:
                picture = decoder.load_sample(samples[number], view)
                return decoder.warn_if_dark(samples[number].path, picture).pixels
            except ImageError as error:
                return error

        def readable() -> Iterator[tuple[int, Pixels]]:
            loaded = map_in_order(load, own, workers=workers, ahead=2 * options.batch_size)
            for number, outcome in zip(own, progress(loaded, "evaluate", len(own)), strict=True):
                if isinstance(outcome, ImageError):
                    errors.append((number, outcome))
                else:
                    yield number, outcome

        images = readable()
        while batch := list(islice(images, options.batch_size)):
            if errors and not options.skip_bad:  # the rest is loaded only to find all unreadable images
                continue
            scores = model.logits(np.stack([pixels for _, pixels in batch]))
            for (number, _), row in zip(batch, scores, strict=True):
                require_finite(row, samples[number].path)
            rows.append(measured_rows(torch.from_numpy(scores), labels_of([samples[number] for number, _ in batch])))
            numbers += [number for number, _ in batch]
    return numbers, torch.cat(rows) if rows else torch.empty(0), errors_of_all(errors, samples, world)


def choose_samples(options: EvaluateOptions, classes: tuple[str, ...]) -> tuple[list[Sample], str]:
    """The images to evaluate, and a description of them."""
    if is_table(options.data):
        return choose_from_table(options, classes)
    parts = find_parts(options.data, classes)
    unlabelled = parts.test is not None and not is_labelled(parts.test, classes)
    if unlabelled and options.split == "auto":
        problem = f"{parts.test} has no class folders, so its images are not labelled"
        log_status("data", f"{problem}; the validation images are evaluated instead")
    use_test = options.split == "auto" and parts.test is not None and not unlabelled
    known = None if use_test else images_of_run(options)
    if known is not None:
        return known
    folder = part_folder(options, parts, unlabelled)
    samples, notes = read_labelled(folder, classes)
    log_notes(options, samples, notes)
    return samples, folder


def choose_from_table(options: EvaluateOptions, classes: tuple[str, ...]) -> tuple[list[Sample], str]:
    """As choose_samples, for a table."""
    samples, part, notes = evaluation_samples(options.data, options, classes, options.split)
    known = None if part == "test" else images_of_run(options)
    if known is not None:
        return known
    log_notes(options, samples, notes)
    return samples, f"{options.data}, {'all rows' if part == 'all' else f'rows of {part}'}"


def images_of_run(options: EvaluateOptions) -> tuple[list[Sample], str] | None:
    """The training or validation images of the model's run, if they are asked for and the run is of the same data."""
    run = RunFolder.containing(options.model)
    if run is None or options.split not in ("auto", "train", "val") or not os.path.exists(run.split_file):
        return None
    if not is_data_of(run, options.data):
        return None
    dataset = Dataset.from_split(run.read_split(), options.image_root(options.data))
    if options.split == "train" or dataset.folds:
        return dataset.train, f"{options.data}, the images the run was trained on"
    return dataset.val, f"{options.data}, the images the run was validated on"


def log_notes(options: EvaluateOptions, samples: list[Sample], notes: list[str]) -> None:
    """Log which names were matched to classes, and warn of images that the model was trained on."""
    for note in notes:
        log_status("data", note)
    run = RunFolder.containing(options.model)
    if run is not None and os.path.exists(run.split_file):
        dataset = Dataset.from_split(run.read_split(), options.image_root(options.data))
        trained = {dataset.digests.get(name) for name in dataset.names_of(dataset.train)} - {None}
        if trained:
            found = hex_digests(samples, worker_count(options.workers))
            how, known = "contents", sum(content in trained for content in found)
        else:  # a run of an older version
            how, known = "names", len({path for path, _ in dataset.train} & {path for path, _ in samples})
        if known:
            log_status("warning", f"the model was trained on {count(known, 'image')} of these, going by their {how}")


def part_folder(options: EvaluateOptions, parts: Parts, unlabelled: bool) -> str:
    """The folder of the part that is asked for. unlabelled: the test images have no class folders.

    Raises MissingInputError if there is no such part, DataError if it is not labelled.
    """
    if options.split == "all":
        return options.data
    if unlabelled and (options.split == "test" or (options.split == "auto" and parts.val is None)):
        problem = "has no class folders, so its images are not labelled; expected CLASS/image"
        also = "" if options.split == "test" else f", and {options.data} has no validation images"
        raise DataError(
            str(parts.test),
            problem + also,
            f"To label them: tlkit predict {shlex.quote(options.model)} {shlex.quote(str(parts.test))}",
        )
    if options.split == "auto":
        return (None if unlabelled else parts.test) or parts.val or options.data
    folder = {"train": parts.train, "val": parts.val, "test": parts.test}[options.split]
    if folder is None:
        raise MissingInputError(
            os.path.join(options.data, options.split), f"no such folder, but --split is {options.split}"
        )
    return folder
