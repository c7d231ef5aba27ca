"""Read and write validation.jsonl: the best epoch's prediction for each validation image. Loads no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlkit.data.folder import Sample
from tlkit.errors import DataError
from tlkit.files.json_file import label_fields, label_of, path_fields, path_of, read_json_lines
from tlkit.files.run_folder import RunFolder
from tlkit.training.evaluation import Predictions


@dataclass(frozen=True)
class Validation:
    """Predictions of one epoch. names: image paths as in split.json."""

    epoch: int
    names: Sequence[str]
    predictions: Predictions


def write_validation(
    run: RunFolder, epoch: int, root: str, samples: Sequence[Sample], classes: Sequence[str], predictions: Predictions
) -> None:
    """Write one line per validation image, in the order of split.json. Raises like RunFolder.write."""
    inside = os.path.join(os.path.abspath(root), "")
    columns = (samples, predictions.labels, predictions.predicted, predictions.confidence, predictions.losses)
    lines = [
        json.dumps(
            {
                "epoch": epoch,
                **path_fields(os.path.abspath(sample.path).removeprefix(inside)),
                **label_fields(classes[label]),
                **label_fields(classes[predicted], "predicted"),
                "probability": float(confidence),
                "loss": float(loss),
            },
            allow_nan=False,
        )
        for sample, label, predicted, confidence, loss in zip(*columns, strict=True)
    ]
    text = "".join(line + "\n" for line in lines).encode()
    run.write(run.validation_file, lambda file: file.write(text))


def read_validation(run: RunFolder, classes: Sequence[str]) -> Validation | None:
    """Read the file; None if it does not exist yet. Raises DataError if it is damaged."""
    if not os.path.exists(run.validation_file):
        return None
    number = {name: place for place, name in enumerate(classes)}
    try:
        rows = read_json_lines(run.validation_file)
        predictions = Predictions(
            np.array([number[label_of(row)] for row in rows], dtype=np.int64),
            np.array([number[label_of(row, "predicted")] for row in rows], dtype=np.int64),
            np.array([row["probability"] for row in rows], dtype=np.float64),
            np.array([row["loss"] for row in rows], dtype=np.float64),
        )
        return Validation(int(rows[0]["epoch"]), [path_of(row) for row in rows], predictions)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(run.validation_file, f"is damaged ({type(error).__name__})") from error
