"""The stored result of a cross-validated run on its own images, by heads that have not seen them."""

from __future__ import annotations

import dataclasses
import os

from tlkit.data.parts import find_parts
from tlkit.files.run_folder import RunFolder
from tlkit.model.build import stored_options
from tlkit.reports.gather import read_history
from tlkit.reports.val_predictions_file import read_validation
from tlkit.terminal import count, log_status
from tlkit.training.evaluation import Evaluation, evaluate_predictions


def stored_result(model: str, data: str) -> Evaluation | None:
    """The out-of-fold result of the run that a model file is in. The model itself was trained on all these images.

    None for other images, runs that are not cross-validated, and runs that have not finished.
    """
    run = RunFolder.containing(model)
    if run is None or not os.path.exists(run.split_file):
        return None
    split = run.read_split()
    classes = tuple(split["classes"])
    if not split.get("folds") or not is_data_of(run, data) or find_parts(data, classes).test:
        return None
    validation = read_validation(run, classes)
    rows = [row for row in read_history(run) if validation is not None and row.epoch == validation.epoch]
    if validation is None or not rows:
        return None
    images = count(len(validation.names), "image")
    log_status("data", f"{data}, {images}: out-of-fold predictions of the run, by heads that have not seen the image")
    return dataclasses.replace(evaluate_predictions(validation.predictions, classes), figures=rows[-1].val)


def is_data_of(run: RunFolder, data: str) -> bool:
    """Whether a folder is the one that a run was trained on."""
    stored = stored_options(run.options_file, run.read_options()["resolved"])
    return os.path.realpath(stored.data) == os.path.realpath(data)
