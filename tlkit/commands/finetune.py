"""tlkit finetune: a folder of images becomes a classifier."""

from __future__ import annotations

import os

from tlkit import interruption
from tlkit.commands.image_check import check_images
from tlkit.commands.survey import find_dataset
from tlkit.data.folder import Dataset
from tlkit.data.listing import require_folder
from tlkit.errors import MissingInputError
from tlkit.options import FinetuneOptions
from tlkit.options.devices import Placing
from tlkit.run_claim import new_run_folder
from tlkit.terminal import count, say


def finetune(options: FinetuneOptions) -> int:
    """Train a new run. Prints the path of its model; returns the exit status.

    The folder is claimed and the data are looked at before torch is loaded, which takes seconds.
    """
    require_folder(options.data)
    require_weights_file(options.weights)
    with new_run_folder(options.out, default_run_folder(options)) as run, interruption.handled("stopping") as signals:
        dataset = find_dataset(options)
        say_dataset(dataset)
        require_devices(options.placing())
        dataset = check_images(options, dataset)
        from tlkit.commands.training_run import start_run

        return start_run(run, options, dataset, signals)


def default_run_folder(options: FinetuneOptions) -> str:
    """runs/<data>-<backbone>"""
    data = os.path.basename(os.path.abspath(options.data))
    return os.path.join("runs", f"{data}-{options.backbone.rpartition('/')[2]}")


def require_weights_file(weights: str) -> None:
    """Raises MissingInputError for a file of weights that is not there."""
    if weights not in ("pretrained", "none") and not os.path.exists(weights):
        raise MissingInputError(weights, "no such file; expected pretrained, none, or a file of weights")


def require_devices(placing: Placing) -> None:
    """What is not here should be heard of before any long work; only what is always here needs no question."""
    if placing.names not in (("auto",), ("cpu",)) or placing.parallel != "none":
        from tlkit.commands.devices import choose_devices

        choose_devices(placing)


def say_dataset(dataset: Dataset) -> None:
    """What was found, for people."""
    train, val = count(len(dataset.train), "training image"), count(len(dataset.val), "validation image")
    say(
        "data",
        f"{dataset.root}: {count(len(dataset.classes), 'class', 'classes')}, {train}, {val} ({dataset.shape})",
    )
    for warning in dataset.warnings:
        say("warning", warning)
