"""From a plan to a classifier on its devices, with its optimizer: the same on every rank."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

from tlkit.data.folder import Dataset
from tlkit.devices.select import Devices, choose_devices, make_deterministic, show_gpu_use
from tlkit.distributed.world import World
from tlkit.errors import MismatchError, is_memory
from tlkit.model.backbones import find_backbone, preferred_image_size
from tlkit.model.build import assemble, require_same_backbone
from tlkit.model.classifier import Classifier
from tlkit.model.files import ModelDescription
from tlkit.model.pipeline.split import place
from tlkit.options import FinetuneOptions
from tlkit.options.finetune import DEFAULT_BATCH
from tlkit.options.network import is_weights_file
from tlkit.runs.auto_batch_size import BatchSizeFinder, FakePeerWorld
from tlkit.runs.checkpoints import Checkpoint
from tlkit.runs.consistency import require_same_environment
from tlkit.runs.environment import libraries, present_environment, use_threads, warn_of_differences
from tlkit.runs.plan import Plan
from tlkit.terminal import log_status
from tlkit.training.batch_norm import LocalBatchNorm, SynchronizedBatchNorm
from tlkit.training.optimizer import build_optimizer, build_scaler
from tlkit.training.state import TrainingState


def resolve(options: FinetuneOptions) -> FinetuneOptions:
    """The options with full backbone name, image size, batch size, and absolute paths."""
    is_file = is_weights_file(options.weights)
    is_folder = isinstance(options.validation(), str)
    backbone = find_backbone(options.backbone)
    batch_size = options.batch_size
    if batch_size == "auto" and not options.feeds_images():
        batch_size = DEFAULT_BATCH
    return dataclasses.replace(
        options,
        data=os.path.abspath(options.data),
        root=os.path.abspath(options.root) if options.root is not None else None,
        backbone=str(backbone),
        batch_size=batch_size,
        image_size=options.image_size or preferred_image_size(backbone),
        weights=os.path.abspath(options.weights) if is_file else options.weights,
        val=os.path.abspath(options.val) if options.val and is_folder else options.val,
    )


@dataclass(frozen=True)
class TrainingSetup:
    """A plan, and the classifier and training state that were built for it.

    options: as in the plan, with the values that were chosen for --batch-size auto and --engine auto.
    """

    options: FinetuneOptions
    dataset: Dataset
    checkpoint: Checkpoint | None
    classifier: Classifier
    description: ModelDescription
    devices: Devices
    state: TrainingState
    world: World

    @property
    def is_new(self) -> bool:
        """Whether the run starts here, without a checkpoint."""
        return self.checkpoint is None


def set_up(plan: Plan, world: World) -> TrainingSetup:
    """Build the classifier on its devices, and its optimizer; with a checkpoint, load it.

    Raises MismatchError if the checkpoint belongs to another backbone, or if the ranks differ in what they compute
    with.
    """
    options = plan.options
    checkpoint = plan.checkpoint
    make_deterministic(options.deterministic)
    devices = choose_devices(options.device_spec(), world.size)
    show_gpu_use(devices)
    if checkpoint is not None:
        use_threads(checkpoint.environment)
    classifier, description = assemble(options, plan.dataset.classes)
    if checkpoint is not None:
        require_same_backbone(description, checkpoint.content, checkpoint.path)
        present = present_environment(devices.first, options.engine, world.size)
        warn_of_differences(checkpoint.environment, present)
    classifier.backbone.precision = devices.precision(options.precision)
    if options.gradient_checkpointing:
        classifier.checkpoint_gradients()
    network, name = classifier.backbone.network, str(classifier.backbone.name)
    place(network, name, devices, description.preprocessing.image_size)
    classifier.head.to(devices.first)
    if plan.dataset.folds:  # images of the last fold may be skipped, so the options tell how many there are
        if plan.dataset.fold_count > (options.folds or 1):
            raise MismatchError("split.json", f"has {plan.dataset.fold_count} folds, but the run {options.folds}")
        classifier.cross_validate(options.folds or 1)
    computing = {"device": devices.first.type, "precision": classifier.backbone.precision, **libraries()}
    require_same_environment({**computing, "sha256 of the weights": description.sha256}, world)
    if options.batch_size == "auto":
        found = find_batch_size(options, classifier, description, devices, len(plan.dataset.train), world)
        options = dataclasses.replace(options, batch_size=found)
    parts = options.accumulate * world.size
    state = TrainingState(
        classifier,
        build_optimizer(classifier.trained_head, classifier.backbone, options),
        scaler=build_scaler(trains_in_fp16(classifier), devices.first),
        micro_batch=-(-options.images_per_step() // parts) if options.accumulate > 1 else None,
    )
    if checkpoint is not None:
        load_state(state, checkpoint)
    return TrainingSetup(options, plan.dataset, checkpoint, classifier, description, devices, state, world)


def find_batch_size(
    options: FinetuneOptions,
    classifier: Classifier,
    description: ModelDescription,
    devices: Devices,
    images: int,
    world: World,
) -> int:
    """The value of --batch-size auto: the largest batch that fits into memory. images: in the training set."""
    synchronized = options.sync_batchnorm and world.size > 1
    finder = BatchSizeFinder(
        classifier,
        devices.data_parallel(classifier),
        options,
        trains_in_fp16(classifier),
        description.preprocessing.image_size,
        devices.first,
        world,
        SynchronizedBatchNorm(FakePeerWorld()) if synchronized else LocalBatchNorm(classifier),
    )
    found = finder.find(images)
    log_status("batch", f"{found} images per step, the largest batch that was tried and fits into memory")
    return found


def trains_in_fp16(classifier: Classifier) -> bool:
    """Whether gradients pass through layers that compute in fp16."""
    return classifier.backbone.precision == "fp16" and bool(classifier.unfrozen)


def load_state(state: TrainingState, checkpoint: Checkpoint) -> None:
    """Continue from a checkpoint. Raises MismatchError if it does not fit the model."""
    try:
        state.load(checkpoint.to_dict())
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        if is_memory(error):
            raise
        raise MismatchError(checkpoint.path, f"does not fit the model of this run ({error})") from error
    log_status("resume", f"from epoch {state.epoch}, step {state.step}")
