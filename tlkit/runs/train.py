"""A run, from its start or from a checkpoint of it, until its model is written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from types import MappingProxyType
from typing import Any

from tlkit.data.folder import Dataset
from tlkit.data.image_file import ImageError
from tlkit.distributed.world import World
from tlkit.errors import DONE, SOME_INPUTS_FAILED, DataError, MismatchError
from tlkit.features.run_model import write_onnx_model
from tlkit.files.atomic import write_json_atomically
from tlkit.files.run_folder import RunFolder
from tlkit.interruption import Interruption
from tlkit.model.classifier import Classifier
from tlkit.model.files import LoadedModel, ModelDescription, write_model
from tlkit.monitoring.run import report_and_close, run_monitor
from tlkit.options import FinetuneOptions
from tlkit.runs.batches import BatchBuilder, PreparedBatches
from tlkit.runs.checkpoints import Checkpointer, Origin, find_epoch
from tlkit.runs.consistency import require_same_files
from tlkit.runs.policy import STANDALONE, RunPolicy
from tlkit.runs.record import (
    begin,
    present_environment,
    recorded_in_status,
    show_running,
    split_digest,
    with_engine,
    write_down_images,
)
from tlkit.runs.setup import build, load_state, resolve
from tlkit.runs.train_loop import train_to_the_end
from tlkit.runs.val_predictions import save_val_predictions
from tlkit.terminal import compact, log_status, write_stdout
from tlkit.training.metrics import metrics_text, shown_metrics, validation_figures
from tlkit.training.state import TrainingState


def start_run(
    run: RunFolder,
    options: FinetuneOptions,
    dataset: Dataset,
    signals: Interruption,
    world: World,
    policy: RunPolicy = STANDALONE,
) -> int:
    """Train a new run. Prints the path of its model; returns the exit status."""
    return train_run(run, options.to_dict(), resolve(options), dataset, None, signals, world, policy=policy)


def train_run(
    run: RunFolder,
    given: Mapping[str, Any],
    options: FinetuneOptions,
    dataset: Dataset,
    checkpoint: Mapping[str, Any] | None,
    signals: Interruption,
    world: World,
    past: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    policy: RunPolicy = STANDALONE,
) -> int:
    """Train a run from its start, or from a checkpoint of it, until its model is written.

    given: the options as typed, which options.json shows beside `options`, the same resolved. past: what the
    checkpoints of a new run hold that another run began, by their files. This is the first rank of the world; what the
    others do is in following.py.
    """
    broadcast_plan(options, dataset, checkpoint, world)
    require_same_files(dataset.root, dataset.train + dataset.val, world)
    built = build(options, dataset, checkpoint, world, run.path)
    options, classifier, description, state = built.options, built.classifier, built.description, built.state
    model = say_model(options, description, classifier)
    if checkpoint is not None:
        load_state(state, checkpoint, run.path)
    remembered = {"given": dict(given), "resolved": options.to_dict()}
    if not os.path.exists(run.options_file):
        begin(run, remembered, past)
    fresh = checkpoint is None
    preparation = BatchBuilder(
        options, dataset, classifier, description, built.devices, fresh, signals, world, policy.memory
    )
    with (
        recorded_in_status(run, options, state),
        closing(preparation),
        run_monitor(run, options, dataset.classes) as monitor,
    ):
        show_running(run, state)
        signals.raise_if_requested()
        options = with_engine(options, preparation.engine, run, remembered, fresh)
        images = preparation.batches()
        if checkpoint is not None:
            require_same_images(images.dataset, checkpoint, images.dataset.skipped[len(dataset.skipped) :])
        write_json_atomically(run.options_file, remembered)  # what was refused until here is not
        environment = present_environment(built.devices.first, options.engine, world.size)
        write_down_images(run, images.dataset, model, environment)
        origin = Origin(options.to_portable_dict(), environment, description, split_digest(images.dataset))
        checkpointer = Checkpointer(run, origin, options.metric, options.keep_checkpoints, options.save_every)
        monitor.log(state.history)
        train_to_the_end(run, options, images, state, checkpointer, built.devices, signals, monitor, policy)
        best = take_best(run, classifier, images, state)
        if policy.exports_model:
            write_model(run.model_file, LoadedModel(classifier.to_plain_network(), description), best)
            write_onnx_model(run, options, classifier, description)
            report_and_close(run, monitor)
        status = finish(run, state, best, options.metric)
    if policy.exports_model:
        write_stdout(os.fsencode(f"{run.model_file}\n"))
    return status


def broadcast_plan(
    options: FinetuneOptions, dataset: Dataset, checkpoint: Mapping[str, Any] | None, world: World
) -> None:
    """Tell the other ranks what is to be done. They need not see the run folder."""
    if world.size > 1:
        skipped = [[error.path, error.code, error.message] for error in dataset.skipped]
        order = {"options": options.to_dict(), "split": dataset.to_split(), "skipped": skipped}
        world.broadcast_object({**order, "resumed": checkpoint is not None})
        if checkpoint is not None:
            world.broadcast_tensors(dict(checkpoint))


def require_same_images(dataset: Dataset, checkpoint: Mapping[str, Any], newly: Sequence[ImageError] = ()) -> None:
    """Raises MismatchError unless the images are those, in the same parts, that a checkpoint was trained on.

    newly: the images that are left out only now.
    """
    if split_digest(dataset) != checkpoint["split_sha256"]:
        gone = f" ({newly[-1].path}: {newly[-1].message})" if newly else ""
        raise MismatchError(
            dataset.root,
            f"its images are not those of the checkpoint: some were added, removed, renamed or damaged{gone}",
            "Bring them back, or start a new run.",
        )


def say_model(options: FinetuneOptions, description: ModelDescription, classifier: Classifier) -> str:
    """What is trained, for people. Returns what it says of the backbone."""
    head = sum(parameter.numel() for parameter in classifier.head.parameters())
    unfrozen = description.trainable - head
    frozen = classifier.backbone.own_parameters() - unfrozen
    height, width = description.preprocessing.image_size
    backbone = (
        f"{description.backbone} at {width}x{height} px, weights: {description.weights}, "
        f"{compact(frozen)} parameters frozen"
    )
    log_status("backbone", backbone)
    more = f", and {compact(unfrozen)} of the backbone" if unfrozen else ""
    log_status("head", f"{options.head}, {compact(head)} parameters to train{more}")
    return backbone


def take_best(run: RunFolder, classifier: Classifier, images: PreparedBatches, state: TrainingState) -> dict[str, Any]:
    """Make the classifier that of the best epoch, and keep what it answers on the validation images.

    Returns the epoch's row. Raises DataError if the epoch's checkpoint is not here.
    """
    if state.best is None:
        raise DataError(run.path, "no epoch is left to train, and its best one is not here", "Extend it by --epochs N.")
    found = find_epoch([run.best_checkpoint, *run.checkpoint_files()], state.best)
    if found is None:
        raise DataError(
            run.best_checkpoint,
            f"is damaged or gone, and no other is of the best epoch, {state.best['epoch']}: no model is written",
            f"Train on with: tlkit resume {run.path} --epochs N",
        )
    _, checkpoint = found
    classifier.load_trainable_state(checkpoint["model_state_dict"])
    save_val_predictions(run, images, state.best["epoch"])
    return state.best


def finish(run: RunFolder, state: TrainingState, best: Mapping[str, Any], metric: str) -> int:
    """Say what came out. Returns the exit status."""
    status = SOME_INPUTS_FAILED if os.path.exists(run.skipped_file) else DONE
    run.write_status("finished", exit_code=status, **state.where())
    log_status(
        "best",
        f"epoch {best['epoch']}: {metrics_text(validation_figures(best), shown_metrics(metric), ', ')} "
        "on the validation images",
    )
    log_status("next", f"tlkit predict {run.path} IMAGE...")
    return status
