"""A run, from its start or from a checkpoint of it, until its model is written."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from types import MappingProxyType
from typing import Any

from tlkit.commands.assembly import assemble, require_same_backbone
from tlkit.commands.checkpoints import Checkpointer, Origin, find_epoch
from tlkit.commands.conduct import BY_ITSELF, Conduct
from tlkit.commands.devices import choose_device, make_deterministic
from tlkit.commands.environment import present_environment, use_threads, warn_of_differences
from tlkit.commands.image_check import write_skipped
from tlkit.commands.images import Preparation
from tlkit.commands.watched_training import train_to_the_end
from tlkit.data.folder import Dataset
from tlkit.data.image_file import ImageError
from tlkit.errors import (
    DONE,
    SOME_INPUTS_FAILED,
    DataError,
    MismatchError,
    ResourceError,
    TlkitError,
    is_memory,
    understood,
)
from tlkit.files import artifact
from tlkit.interruption import Interrupted, Interruption
from tlkit.model.backbones import find_backbone, preferred_image_size
from tlkit.model.classifier import Classifier
from tlkit.model.files import CHECKPOINT_FORMAT, LoadedModel, ModelDescription, write_model
from tlkit.model.inference import choose_precision
from tlkit.options import FinetuneOptions
from tlkit.run_folder import RunFolder
from tlkit.storage import write_json_atomically
from tlkit.terminal import compact, emit, say
from tlkit.training.loop import NonFiniteLossError
from tlkit.training.optimizer import build_optimizer
from tlkit.training.state import TrainingState


def start_run(
    run: RunFolder, options: FinetuneOptions, dataset: Dataset, signals: Interruption, conduct: Conduct = BY_ITSELF
) -> int:
    """Train a new run. Prints the path of its model; returns the exit status."""
    return train_run(run, options.to_dict(), resolve(options), dataset, None, signals, conduct=conduct)


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


def train_run(
    run: RunFolder,
    given: Mapping[str, Any],
    options: FinetuneOptions,
    dataset: Dataset,
    checkpoint: Mapping[str, Any] | None,
    signals: Interruption,
    past: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    conduct: Conduct = BY_ITSELF,
) -> int:
    """Train a run from its start, or from a checkpoint of it, until its model is written.

    given: the options as typed, which options.json shows beside `options`, the same resolved. past: what the
    checkpoints of a new run hold that another run began, by their files.
    """
    recorded = checkpoint["environment"] if checkpoint is not None else {}
    make_deterministic(options.deterministic)
    device = choose_device(options.device)
    use_threads(recorded)
    environment = present_environment(device)
    classifier, description = assemble(options, dataset.classes)
    if checkpoint is not None:
        require_same_backbone(description, checkpoint, run.path)
        warn_of_differences(recorded, environment)
    classifier.to(device)
    classifier.backbone.precision = choose_precision(options.precision, device)
    say_model(options, description, classifier)
    optimizer = build_optimizer(classifier.head, classifier.backbone, options.optimizer, options.weight_decay)
    state = TrainingState(classifier, optimizer)
    if checkpoint is not None:
        load_state(state, checkpoint, run)
    remembered = {"given": dict(given), "resolved": options.to_dict()}
    if not os.path.exists(run.options_file):
        begin(run, remembered, past)
    fresh = checkpoint is None
    preparation = Preparation(options, dataset, classifier, description, device, fresh, signals, conduct.memory)
    with recorded_in_status(run, options, state), closing(preparation):
        run.write_status("running", **state.where())
        if state.history:
            run.write_history(state.history)
        signals.raise_if_requested()
        images = preparation.batches()
        if checkpoint is not None:
            require_same_images(images.dataset, checkpoint, images.dataset.skipped[len(dataset.skipped) :])
        write_json_atomically(run.options_file, remembered)  # what was refused until here is not
        split = images.dataset.to_split()
        write_json_atomically(run.split_file, split)
        if images.dataset.skipped:
            write_skipped(run, images.dataset.skipped)
        origin = Origin(options.to_portable_dict(), environment, description, artifact.digest(split))
        checkpointer = Checkpointer(run, origin, options.metric, options.keep, options.save_every)
        train_to_the_end(run, options, images, state, checkpointer, device, signals, conduct)
        status = finish(run, classifier, description, state, conduct)
    if conduct.ships:
        emit(os.fsencode(f"{run.model_file}\n"))
    return status


def begin(run: RunFolder, remembered: Mapping[str, Any], past: Mapping[str, Mapping[str, Any]]) -> None:
    """Make a folder a run that can be resumed, whenever it is stopped."""
    for file, content in past.items():
        artifact.write_artifact(file, CHECKPOINT_FORMAT, content)
    write_json_atomically(run.options_file, remembered)


def load_state(state: TrainingState, checkpoint: Mapping[str, Any], run: RunFolder) -> None:
    """Stand where a checkpoint stood. Raises MismatchError."""
    try:
        state.load(checkpoint)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        if is_memory(error):
            raise
        raise MismatchError(run.path, f"its checkpoint does not fit what is trained here ({error})") from error
    say("resume", f"from epoch {state.epoch}, step {state.step}")


def require_same_images(dataset: Dataset, checkpoint: Mapping[str, Any], newly: Sequence[ImageError] = ()) -> None:
    """Raises MismatchError unless the images are those, in the same parts, that a checkpoint was trained on.

    newly: the images that are left out only now.
    """
    if artifact.digest(dataset.to_split()) != checkpoint["split_sha256"]:
        gone = f" ({newly[-1].path}: {newly[-1].message})" if newly else ""
        raise MismatchError(
            dataset.root,
            f"its images are not those of the checkpoint: some were added, removed, renamed or damaged{gone}",
            "Bring them back, or start a new run.",
        )


@contextmanager
def recorded_in_status(run: RunFolder, options: FinetuneOptions, state: TrainingState) -> Iterator[None]:
    """Write into status.json how the block fails or is stopped, if that can be written; the error itself goes on."""
    try:
        yield
    except Exception as error:
        known = understood(error)
        if isinstance(known, ResourceError) and known is not error:
            known = ResourceError(
                known.subject,
                f"{known.problem} at --batch-size {options.batch_size}",
                f"Try a smaller one, or --image-size, in a new run; or, with more memory: tlkit resume {run.path}",
            )
        named = {"code": error.code, "files": error.files} if isinstance(error, NonFiniteLossError) else {}
        with suppress(TlkitError):
            run.write_status("failed", exit_code=known.exit_code, error=str(known), **named, **state.where())
        if known is not error and isinstance(known, ResourceError):
            raise known from error
        raise
    except Interrupted as interrupted:
        with suppress(TlkitError):
            run.write_status("interrupted", exit_code=128 + interrupted.number, **state.where())
        say("stopped", f"go on with: tlkit resume {run.path}")
        raise


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


def finish(
    run: RunFolder,
    classifier: Classifier,
    description: ModelDescription,
    state: TrainingState,
    conduct: Conduct,
) -> int:
    """Write the model of the best epoch, and say what came out. Returns the exit status."""
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
    if conduct.ships:
        classifier.load_trainable_state(checkpoint["model_state_dict"])
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
