"""tlkit finetune: a folder of images becomes a classifier."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tlkit import artifact, interruption
from tlkit.commands.assembly import assemble, require_same_backbone
from tlkit.commands.checkpoints import Checkpointer, read_checkpoint
from tlkit.commands.devices import choose_device, make_deterministic
from tlkit.commands.image_check import check_images, write_skipped
from tlkit.commands.images import Preparation, PreparedBatches
from tlkit.commands.survey import find_dataset
from tlkit.data.folder import Dataset
from tlkit.errors import DONE, SOME_INPUTS_FAILED, DataError, MismatchError, MissingInputError, TlkitError
from tlkit.interruption import Interrupted, Interruption
from tlkit.model.backbones import find_backbone, preferred_image_size
from tlkit.model.classifier import Classifier, Head
from tlkit.model.files import LoadedModel, ModelDescription, write_model
from tlkit.model.inference import choose_precision
from tlkit.options import FinetuneOptions
from tlkit.run_folder import RunFolder, new_run_folder
from tlkit.storage import write_json_atomically
from tlkit.terminal import compact, count, emit, say
from tlkit.training.loop import Recipe, train
from tlkit.training.optimizer import build_optimizer
from tlkit.training.state import TrainingState

SMALL_STEP = 1 << 24
"""Multiplications of a step that one thread does as fast as several."""


def finetune(options: FinetuneOptions) -> int:
    """Train a new run. Prints the path of its model; returns the exit status."""
    dataset = find_dataset(options)
    say_dataset(dataset)
    choose_device(options.device)  # what is not here should be heard of before any long work
    require_weights_file(options.weights)
    with new_run_folder(options.out, default_run_folder(options)) as run, interruption.handled() as signals:
        resolved = resolve(options)
        dataset = check_images(resolved, dataset)
        return train_run(run, options, resolved, dataset, None, signals)


def default_run_folder(options: FinetuneOptions) -> str:
    """runs/<data>-<backbone>"""
    data = os.path.basename(os.path.abspath(options.data))
    return os.path.join("runs", f"{data}-{options.backbone.rpartition('/')[2]}")


def resolve(options: FinetuneOptions) -> FinetuneOptions:
    """The options with names looked up and paths that mean the same from any folder."""
    is_file = options.weights not in ("pretrained", "none")
    is_folder = isinstance(options.validation(), str)
    backbone = find_backbone(options.backbone)
    return dataclasses.replace(
        options,
        data=os.path.abspath(options.data),
        backbone=str(backbone),
        image_size=options.image_size or preferred_image_size(backbone),
        weights=os.path.abspath(options.weights) if is_file else options.weights,
        val=os.path.abspath(options.val) if options.val and is_folder else options.val,
    )


def require_weights_file(weights: str) -> None:
    """Raises MissingInputError for a file of weights that is not there."""
    if weights not in ("pretrained", "none") and not os.path.exists(weights):
        raise MissingInputError(weights, "no such file; expected pretrained, none, or a file of weights")


def require_same_images(dataset: Dataset, checkpoint: Mapping[str, Any]) -> None:
    """Raises MismatchError unless the images are those, in the same parts, that a checkpoint was trained on."""
    if artifact.digest(dataset.to_split()) != checkpoint["split_sha256"]:
        gone = f" ({dataset.skipped[-1].path}: {dataset.skipped[-1].message})" if dataset.skipped else ""
        raise MismatchError(
            dataset.root,
            f"its images are not those of the checkpoint: some were added, removed, renamed or damaged{gone}",
            "Bring them back, or start a new run.",
        )


def say_dataset(dataset: Dataset) -> None:
    """What was found, for people."""
    train, val = count(len(dataset.train), "training image"), count(len(dataset.val), "validation image")
    say(
        "data",
        f"{dataset.root}: {count(len(dataset.classes), 'class', 'classes')}, {train}, {val} ({dataset.shape})",
    )
    for warning in dataset.warnings:
        say("warning", warning)


def train_run(
    run: RunFolder,
    given: FinetuneOptions,
    options: FinetuneOptions,
    dataset: Dataset,
    checkpoint: Mapping[str, Any] | None,
    signals: Interruption,
) -> int:
    """Train a run from its start, or from a checkpoint of it, until its model is written.

    given: the options as typed, which checkpoints show; options: the same, resolved.
    """
    make_deterministic(options.deterministic)
    device = choose_device(options.device)
    classifier, description = assemble(options, dataset.classes)
    if checkpoint is not None:
        require_same_backbone(description, checkpoint, run.path)
    classifier.to(device)
    classifier.backbone.precision = choose_precision(options.precision, device)
    say_model(options, description, classifier)
    optimizer = build_optimizer(classifier.head, classifier.backbone, options.optimizer, options.weight_decay)
    state = TrainingState(classifier, optimizer)
    if checkpoint is not None:
        state.load(checkpoint)
        say("resume", f"from epoch {state.epoch}, step {state.step}")
    write_json_atomically(run.options_file, {"given": given.to_dict(), "resolved": options.to_dict()})
    try:
        run.write_status("running", **state.where())
        fresh = checkpoint is None
        images = Preparation(options, dataset, classifier, description, device, fresh, signals).batches()
        if checkpoint is not None:
            require_same_images(images.dataset, checkpoint)
        split = images.dataset.to_split()
        write_json_atomically(run.split_file, split)
        if images.dataset.skipped:
            write_skipped(run, images.dataset.skipped)
        checkpointer = Checkpointer(
            run, given.to_dict(), description, artifact.digest(split), options.metric, options.keep
        )
        train_to_the_end(run, options, images, state, checkpointer, device, signals)
        status = finish(run, classifier, description, state)
    except Exception as error:
        exit_code = getattr(error, "exit_code", TlkitError.exit_code)
        run.write_status("failed", exit_code=exit_code, error=str(error), **state.where())
        raise
    except Interrupted as interrupted:
        run.write_status("interrupted", exit_code=128 + interrupted.number, **state.where())
        say("stopped", f"go on with: tlkit resume {run.path}")
        raise
    emit(os.fsencode(f"{run.model_file}\n"))
    return status


def say_model(options: FinetuneOptions, description: ModelDescription, classifier: Classifier) -> None:
    """What is trained, for people."""
    frozen = sum(p.numel() for p in classifier.parameters()) - description.trainable
    height, width = description.preprocessing.image_size
    say(
        "backbone",
        f"{description.backbone} at {width}x{height} px, weights: {description.weights}, "
        f"{compact(frozen)} parameters frozen",
    )
    say("head", f"{options.head}, {compact(description.trainable)} parameters to train")


def train_to_the_end(
    run: RunFolder,
    options: FinetuneOptions,
    images: PreparedBatches,
    state: TrainingState,
    checkpointer: Checkpointer,
    device: torch.device,
    signals: Interruption,
) -> None:
    """Run the training loop; every epoch is committed and said, a signal ends it with a checkpoint."""

    def after_epoch(state: TrainingState, is_best: bool) -> None:
        checkpointer.commit_epoch(state, is_best)
        run.write_status("running", **state.where())
        say_epoch(state, options.planned_epochs(), is_best)

    recipe = Recipe(
        epochs=options.planned_epochs(),
        learning_rate=options.learning_rate,
        schedule=options.schedule,
        label_smoothing=options.label_smoothing,
        metric=options.metric,
        patience=options.patience,
        seed=options.seed,
    )
    with signals.deferred(), few_threads(images.module, options.batch_size):
        try:
            train(
                images.module,
                state,
                images.train,
                images.val,
                recipe,
                class_weights(options.class_weights, images.dataset),
                device,
                after_epoch,
            )
            signals.raise_if_requested()
        except Interrupted:
            if state.is_finite():
                checkpointer.commit_last(state)
            raise


@contextmanager
def few_threads(module: nn.Module, batch_size: int) -> Iterator[None]:
    """One thread for a head's steps, where they are so small that two would wait for each other longer than they work.

    On a machine with other work to do, waiting makes such a step a hundred times slower.
    """
    before = torch.get_num_threads()
    multiplications = batch_size * sum(parameter.numel() for parameter in module.parameters())
    if isinstance(module, Head) and multiplications <= SMALL_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def class_weights(kind: str, dataset: Dataset) -> torch.Tensor:
    """Factors [C] of each class in the training loss: ones, or inverse to its images, one on average over images."""
    counts = torch.bincount(torch.tensor([s.label for s in dataset.train]), minlength=len(dataset.classes))
    if kind == "none":
        return torch.ones(len(counts))
    return len(dataset.train) / (len(counts) * counts.clamp_min(1).float())


def say_epoch(state: TrainingState, epochs: int, is_best: bool) -> None:
    """One line for an epoch. Of quick epochs, those that are best so far, every tenth and the last are said."""
    row = state.history[-1]
    if not (is_best or state.epoch % 10 == 0 or state.epoch == epochs or row["seconds"] > 1):
        return
    figures = (
        f"train loss {row['train_loss']:.4f}  val loss {row['val_loss']:.4f}  "
        f"accuracy {row['val_accuracy']:.4f}  macro F1 {row['val_macro_f1']:.4f}"
    )
    say("epoch", f"{row['epoch']:>{len(str(epochs))}}/{epochs}  {figures}{'  best' if is_best else ''}")


def finish(run: RunFolder, classifier: Classifier, description: ModelDescription, state: TrainingState) -> int:
    """Write the model of the best epoch, and say what came out. Returns the exit status."""
    if state.best is None:
        raise DataError(run.path, "no epoch is left to train, and its best one is not here", "Extend it by --epochs N.")
    classifier.load_trainable_state(read_checkpoint(run.best_checkpoint)["model_state_dict"])
    write_model(run.model_file, LoadedModel(classifier.shipped(), description), state.best)
    status = SOME_INPUTS_FAILED if os.path.exists(run.skipped_file) else DONE
    run.write_status("finished", exit_code=status, **state.where())
    say(
        "best",
        f"epoch {state.best['epoch']}: accuracy {state.best['val_accuracy']:.4f}, "
        f"macro F1 {state.best['val_macro_f1']:.4f}, loss {state.best['val_loss']:.4f} on the validation images",
    )
    say("next", f"tlkit predict {run.path} IMAGE...")
    return status
