"""validation.jsonl: what the best epoch answered on each validation image. Loads no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlkit.data.folder import Sample
from tlkit.errors import DataError
from tlkit.files.atomic import write_atomically
from tlkit.files.inputs import open_input
from tlkit.files.json_file import label_fields, label_of, path_fields, path_of
from tlkit.files.run_folder import RunFolder
from tlkit.training.evaluation import Predictions


@dataclass(frozen=True)
class Validation:
    """The answers of an epoch. names: of the images, as split.json has them."""

    epoch: int
    names: Sequence[str]
    answers: Predictions


def write_validation(
    run: RunFolder, epoch: int, root: str, samples: Sequence[Sample], classes: Sequence[str], answers: Predictions
) -> None:
    """A line for each validation image, in the order of split.json. Raises as write_atomically does."""
    inside = os.path.join(os.path.abspath(root), "")
    columns = (samples, answers.labels, answers.predicted, answers.confidence, answers.losses)
    lines = [
        json.dumps(
            {
                "epoch": epoch,
                **path_fields(os.path.abspath(sample.path).removeprefix(inside)),
                **label_fields(classes[label]),
                **label_fields(classes[guess], "predicted"),
                "probability": float(confidence),
                "loss": float(loss),
            },
            allow_nan=False,
        )
        for sample, label, guess, confidence, loss in zip(*columns, strict=True)
    ]
    text = "".join(line + "\n" for line in lines).encode()
    write_atomically(run.validation_file, lambda file: file.write(text))


def read_validation(run: RunFolder, classes: Sequence[str]) -> Validation | None:
    """What a run has written down; None if it has not come so far. Raises DataError if it is damaged."""
    if not os.path.exists(run.validation_file):
        return None
    number = {name: place for place, name in enumerate(classes)}
    try:
        with open_input(run.validation_file) as file:
            rows = [json.loads(line) for line in file]
        answers = Predictions(
            np.array([number[label_of(row)] for row in rows], dtype=np.int64),
            np.array([number[label_of(row, "predicted")] for row in rows], dtype=np.int64),
            np.array([row["probability"] for row in rows], dtype=np.float64),
            np.array([row["loss"] for row in rows], dtype=np.float64),
        )
        return Validation(int(rows[0]["epoch"]), [path_of(row) for row in rows], answers)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(run.validation_file, f"is damaged ({type(error).__name__})") from error
