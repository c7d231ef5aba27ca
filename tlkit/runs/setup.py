"""What a rank trains with: from options, and a checkpoint if there is one, to a classifier on its devices."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tlkit.data.folder import Dataset
from tlkit.devices.select import Devices, choose_devices, make_deterministic, show_gpu_use
from tlkit.distributed.world import SINGLE_PROCESS, World
from tlkit.errors import MismatchError, is_memory
from tlkit.model.backbones import find_backbone, preferred_image_size
from tlkit.model.build import assemble, require_same_backbone
from tlkit.model.classifier import Classifier
from tlkit.model.files import ModelDescription
from tlkit.model.pipeline.split import Size, place
from tlkit.options import FinetuneOptions
from tlkit.options.finetune import DEFAULT_BATCH
from tlkit.options.network import is_weights_file
from tlkit.runs.auto_batch_size import BatchSizeFinder, FakePeerWorld
from tlkit.runs.consistency import require_same_environment
from tlkit.runs.record import libraries, present_environment, use_threads, warn_of_differences
from tlkit.terminal import log_status
from tlkit.training.batch_norm import LocalBatchNorm, SynchronizedBatchNorm
from tlkit.training.optimizer import build_optimizer, build_scaler
from tlkit.training.state import TrainingState


def resolve(options: FinetuneOptions) -> FinetuneOptions:
    """The options with names looked up and paths that mean the same from any folder."""
    is_file = is_weights_file(options.weights)
    is_folder = isinstance(options.validation(), str)
    backbone = find_backbone(options.backbone)
    batch_size = options.batch_size
    if batch_size == "auto" and not options.feeds_images():
        batch_size = DEFAULT_BATCH
    return dataclasses.replace(
        options,
        data=os.path.abspath(options.data),
        backbone=str(backbone),
        batch_size=batch_size,
        image_size=options.image_size or preferred_image_size(backbone),
        weights=os.path.abspath(options.weights) if is_file else options.weights,
        val=os.path.abspath(options.val) if options.val and is_folder else options.val,
    )


@dataclass(frozen=True)
class Built:
    """What a rank trains with. options: those of the run, with what --batch-size auto is."""

    options: FinetuneOptions
    classifier: Classifier
    description: ModelDescription
    devices: Devices
    state: TrainingState


def build(
    options: FinetuneOptions, dataset: Dataset, checkpoint: Mapping[str, Any] | None, world: World, origin: str
) -> Built:
    """The classifier of a run on its devices, and its optimizer, as they are at the run's start.

    With a checkpoint, which is of `origin`, computing as that did. Raises MismatchError if it is not of this backbone,
    or if another rank computes otherwise.
    """
    recorded = checkpoint["environment"] if checkpoint is not None else {}
    make_deterministic(options.deterministic)
    devices = choose_devices(options.device_spec(), world.size)
    show_gpu_use(devices)
    use_threads(recorded)
    classifier, description = assemble(options, dataset.classes)
    if checkpoint is not None:
        require_same_backbone(description, checkpoint, origin)
        warn_of_differences(recorded, present_environment(devices.first, options.engine, world.size))
    size = description.preprocessing.image_size
    place_classifier(classifier, options, devices, size)
    computing = {"device": devices.first.type, "precision": classifier.backbone.precision, **libraries()}
    require_same_environment({**computing, "sha256 of the weights": description.sha256}, world)
    options = with_batch_size(options, classifier, devices, size, len(dataset.train), world)
    state = training_state(classifier, options, devices.first, world)
    return Built(options, classifier, description, devices, state)


def load_state(state: TrainingState, checkpoint: Mapping[str, Any], origin: str) -> None:
    """Stand where a checkpoint stood. Raises MismatchError."""
    try:
        state.load(checkpoint)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        if is_memory(error):
            raise
        raise MismatchError(origin, f"its checkpoint does not fit what is trained here ({error})") from error
    log_status("resume", f"from epoch {state.epoch}, step {state.step}")


def place_classifier(classifier: Classifier, options: FinetuneOptions, devices: Devices, image_size: Size) -> None:
    """Put a classifier on its devices, the head on the first, and have it compute as the options say."""
    classifier.backbone.precision = devices.precision(options.precision)
    if options.gradient_checkpointing:
        classifier.checkpoint_gradients()
    place(classifier.backbone.network, str(classifier.backbone.name), devices, image_size)
    classifier.head.to(devices.first)


def with_batch_size(
    options: FinetuneOptions,
    classifier: Classifier,
    devices: Devices,
    image_size: Size,
    images: int,
    world: World = SINGLE_PROCESS,
) -> FinetuneOptions:
    """The options with what --batch-size auto is here."""
    if options.batch_size != "auto":
        return options
    attempts = BatchSizeFinder(
        classifier,
        devices.data_parallel(classifier),
        options.optimizer,
        trains_in_fp16(classifier),
        image_size,
        devices.first,
        world,
        options.accumulate,
        SynchronizedBatchNorm(FakePeerWorld()) if options.sync_batchnorm and world.size > 1 else LocalBatchNorm(),
    )
    found = attempts.find(images)
    log_status("batch", f"{found} images for each step, the most that was tried and fits")
    return dataclasses.replace(options, batch_size=found)


def training_state(
    classifier: Classifier, options: FinetuneOptions, device: torch.device, world: World = SINGLE_PROCESS
) -> TrainingState:
    """A classifier and what trains it, at the beginning."""
    optimizer = build_optimizer(classifier.head, classifier.backbone, options.optimizer, options.weight_decay)
    parts = options.accumulate * world.size
    return TrainingState(
        classifier,
        optimizer,
        scaler=build_scaler(trains_in_fp16(classifier), device),
        micro_batch=-(-options.images_per_step() // parts) if options.accumulate > 1 else None,
    )


def trains_in_fp16(classifier: Classifier) -> bool:
    """Whether gradients pass layers that compute in fp16."""
    return classifier.backbone.precision == "fp16" and bool(classifier.unfrozen)
