"""The stored result of a cross-validated run on its own images, by heads that have not seen them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from tlkit.data.bad_images import read_skipped
from tlkit.data.folder import Dataset, Sample
from tlkit.data.sources import find_training_set
from tlkit.errors import TlkitError
from tlkit.files.run_folder import RunFolder
from tlkit.model.build import stored_options
from tlkit.options import EvaluateOptions, FinetuneOptions
from tlkit.reports.gather import read_history
from tlkit.reports.val_predictions_file import read_validation
from tlkit.runs.plan import content_digests
from tlkit.terminal import log_status
from tlkit.training.evaluation import Evaluation, evaluate_predictions


def stored_result(options: EvaluateOptions, samples: Sequence[Sample]) -> Evaluation | None:
    """The out-of-fold result of a run, if MODEL is its model and the samples are those that it was trained on.

    None for other models and images, for runs that are not cross-validated or have not finished, and if images were
    added, removed or changed since.
    """
    run = RunFolder.containing(options.model)
    if run is None or options.split not in ("auto", "val") or not os.path.exists(run.split_file):
        return None
    own = (run.path, run.model_file, run.onnx_file, run.best_checkpoint)
    dataset = Dataset.from_split(run.read_split(), options.image_root(options.data))
    if (
        not dataset.folds
        or not is_data_of(run, options.data)
        or os.path.realpath(options.model) not in map(os.path.realpath, own)
    ):
        return None
    if [sample.path for sample in samples] != [sample.path for sample in dataset.train]:
        return None
    validation = read_validation(run, dataset.classes)
    rows = [row for row in read_history(run) if validation is not None and row.epoch == validation.epoch]
    if validation is None or not rows:
        return None
    if not is_unchanged(run, dataset, options):
        log_status("warning", "images were added, removed or changed since the run: its stored result does not count")
        return None
    log_status("data", "out-of-fold predictions of the run: each image by a head that has not seen it")
    return dataclasses.replace(evaluate_predictions(validation.predictions, dataset.classes), figures=rows[-1].val)


def is_unchanged(run: RunFolder, dataset: Dataset, options: EvaluateOptions) -> bool:
    """Whether the data still have the images of the run, with the same labels and contents."""
    try:
        trained = options_of(run)
        present = find_training_set(dataclasses.replace(trained, data=options.data, root=options.root or trained.root))
        skipped = {os.path.abspath(error.path) for error in read_skipped(run)}
    except TlkitError:
        return False
    found = {(os.path.abspath(path), present.classes[label]) for path, label in present.images}
    expected = {(os.path.abspath(path), dataset.classes[label]) for path, label in dataset.train}
    same = {entry for entry in found if entry[0] not in skipped} == expected
    return same and (not dataset.digests or content_digests(dataset) == dict(dataset.digests))


def is_data_of(run: RunFolder, data: str) -> bool:
    """Whether a folder or table is the one that a run was trained on. Raises DataError if its options are damaged."""
    return os.path.realpath(options_of(run).data) == os.path.realpath(data)


def options_of(run: RunFolder) -> FinetuneOptions:
    """The options that a run was trained with."""
    return stored_options(run.options_file, run.read_options()["resolved"])
