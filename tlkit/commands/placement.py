"""Models put on their devices, and what trains them there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from tlkit.commands.batch_size import Attempts, Rehearsal
from tlkit.commands.devices import Devices
from tlkit.distributed import ALONE, World
from tlkit.model.classifier import Classifier
from tlkit.model.stages import Stage, divide
from tlkit.options import FinetuneOptions
from tlkit.terminal import compact, say
from tlkit.training.batch_norm import OwnBatchNorm, SynchronisedBatchNorm
from tlkit.training.optimizer import build_optimizer, build_scaler
from tlkit.training.state import TrainingState

Size = tuple[int, int]
"""(height, width) of the images that enter."""


def place_classifier(classifier: Classifier, options: FinetuneOptions, devices: Devices, image_size: Size) -> None:
    """Put a classifier on its devices, the head on the first, and have it compute as the options say."""
    classifier.backbone.precision = devices.precision(options.precision)
    if options.gradient_checkpointing:
        classifier.checkpoint_gradients()
    place(classifier.backbone.network, str(classifier.backbone.name), devices, image_size)
    classifier.head.to(devices.first)


def place(network: nn.Module, name: str, devices: Devices, image_size: Size) -> None:
    """Put a network on its devices, a stage on each where there are stages. name: of the network, for people."""
    if devices.parallel == "model":
        say_stages(divide(network, name, devices.every, image_size, devices.split_at))
    else:
        network.to(devices.first)


def say_stages(stages: Sequence[Stage]) -> None:
    """What lies where, for people."""
    for number, stage in enumerate(stages, start=1):
        begins = f"from {stage.first} on, " if stage.first else ""
        say(
            f"stage {number}",
            f"{stage.device}: {begins}{compact(stage.parameters)} parameters in {compact(stage.state_bytes)}B, "
            f"{compact(stage.activation_bytes)}B of activations for each image",
        )


def with_batch_size(
    options: FinetuneOptions,
    classifier: Classifier,
    devices: Devices,
    image_size: Size,
    images: int,
    world: World = ALONE,
) -> FinetuneOptions:
    """The options with what --batch-size auto is here."""
    if options.batch_size != "auto":
        return options
    attempts = Attempts(
        classifier,
        devices.shared_out(classifier),
        options.optimizer,
        trains_in_fp16(classifier),
        image_size,
        devices.first,
        world,
        options.accumulate,
        SynchronisedBatchNorm(Rehearsal()) if options.sync_batchnorm and world.size > 1 else OwnBatchNorm(),
    )
    found = attempts.find(images)
    say("batch", f"{found} images for each step, the most that was tried and fits")
    return dataclasses.replace(options, batch_size=found)


def training_state(
    classifier: Classifier, options: FinetuneOptions, device: torch.device, world: World = ALONE
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
