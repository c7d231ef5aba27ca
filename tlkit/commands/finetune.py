"""tlkit finetune: a folder of images becomes a classifier."""

from __future__ import annotations

import os

from tlkit import interruption
from tlkit.commands.agreement import require_same_options
from tlkit.commands.image_check import check_images
from tlkit.commands.joining import joined
from tlkit.commands.launch import is_for_ranks, launch
from tlkit.commands.resume import go_on, run_before_restart
from tlkit.commands.survey import describe, find_dataset
from tlkit.data.folder import Dataset
from tlkit.data.listing import require_folder
from tlkit.errors import MissingInputError
from tlkit.options import FinetuneOptions, ResumeOptions
from tlkit.options.devices import Placing
from tlkit.options.network import is_weights_file
from tlkit.output.monitoring import require_installed
from tlkit.ranks import is_follower, note
from tlkit.run_claim import new_run_folder
from tlkit.terminal import say


def finetune(options: FinetuneOptions) -> int:
    """Train a new run. Prints the path of its model; returns the exit status.

    The folder is claimed and the data are looked at before torch is loaded, which takes seconds. Of several ranks the
    first does this, and the others follow.
    """
    require_installed(options.sinks())
    require_folder(options.data)
    require_weights_file(options.weights)
    if is_for_ranks(options.processes):
        return launch("finetune", options, options.device, options.processes, options.max_restarts)
    if is_follower():
        from tlkit.commands.following import follow

        return follow(options)
    earlier = run_before_restart()
    if earlier is not None:
        return go_on(earlier, ResumeOptions(checkpoint=earlier.path, trust_pickle=options.trust_pickle), options)
    with (
        new_run_folder(options.out, default_run_folder(options)) as run,
        interruption.handled("stopping") as signals,
        joined(options) as world,
    ):
        note("run", os.path.abspath(run.path))
        require_same_options(options, world)
        dataset = find_dataset(options)
        say_dataset(dataset)
        require_devices(options.placing())
        dataset = check_images(options, dataset)
        from tlkit.commands.training_run import start_run

        return start_run(run, options, dataset, signals, world)


def default_run_folder(options: FinetuneOptions) -> str:
    """runs/<data>-<backbone>"""
    data = os.path.basename(os.path.abspath(options.data))
    return os.path.join("runs", f"{data}-{options.backbone.rpartition('/')[2]}")


def require_weights_file(weights: str) -> None:
    """Raises MissingInputError for a file of weights that is not there."""
    if is_weights_file(weights) and not os.path.exists(weights):
        raise MissingInputError(weights, "no such file; expected pretrained, none, or a file of weights")


def require_devices(placing: Placing) -> None:
    """What is not here should be heard of before any long work; only what is always here needs no question."""
    if placing.names not in (("auto",), ("cpu",)) or placing.parallel != "none":
        from tlkit.commands.devices import choose_devices

        choose_devices(placing)


def say_dataset(dataset: Dataset) -> None:
    """What was found, for people."""
    say("data", describe(dataset))
    for warning in dataset.warnings:
        say("warning", warning)
