"""Build a classifier from options: network, weights, new head."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import torch

from tlkit.errors import DataError, MismatchError, UsageError
from tlkit.files.artifact import as_content_of
from tlkit.files.description import class_names, mapping, text
from tlkit.model.backbones import (
    BackboneName,
    build_network,
    classifier_layers,
    download_weights,
    find_backbone,
    preferred_image_size,
    preprocessing_of,
    pretrained_classes,
)
from tlkit.model.classifier import Classifier, build_classifier
from tlkit.model.files import ModelDescription
from tlkit.model.head import HEADS
from tlkit.model.state_dict import weights_sha256
from tlkit.model.weights import Weights, find_weights, load_weights, read_weights_file
from tlkit.model.weights_folder import preprocessing_in
from tlkit.options import FinetuneOptions
from tlkit.options.network import is_weights_file
from tlkit.terminal import count


def assemble(options: FinetuneOptions, classes: tuple[str, ...]) -> tuple[Classifier, ModelDescription]:
    """Build a classifier with the backbone's weights and a new head, and its description.

    The seed determines all random values.
    """
    backbone = find_backbone(options.backbone)
    image_size = options.image_size or preferred_image_size(backbone)
    weights = read_weights_file(options.weights, options.trust_pickle) if is_weights_file(options.weights) else None
    outputs = outputs_of(backbone, options, image_size, weights, len(classes))
    torch.manual_seed(options.seed)
    network = build_network(backbone, outputs, image_size)
    layers = classifier_layers(backbone, network, outputs)
    kind = HEADS[options.head]
    head_names = () if kind.on_class_outputs else (*layers.output_layers, *layers.auxiliary)
    if options.weights == "pretrained":
        weights = Weights(str(backbone), download_weights(backbone, network))
    if weights is not None:
        load_weights(network, backbone, weights, head_names, options.weights_key)
    float_range, integer_range = options.ranges()
    preprocessing = dataclasses.replace(
        preprocessing_of(backbone, network, image_size, preprocessing_in(options.weights)),
        more_formats=options.more_formats(),
        float_range=float_range,
        integer_range=integer_range,
    )
    torch.manual_seed(options.seed)
    classifier = build_classifier(backbone, network, len(classes), options.head, options.hidden, options.unfreeze)
    if not options.trains_batchnorm():
        classifier.freeze_batchnorm()
    description = ModelDescription(
        backbone=backbone,
        weights=os.path.basename(os.path.normpath(options.weights)),
        sha256=weights_sha256(network, head_names),
        image_size=image_size,
        backbone_classes=outputs if kind.on_class_outputs else None,
        head=options.head,
        hidden=kind.hidden(options.hidden),
        trainable=classifier.trainable_parameters(),
        classes=classes,
        preprocessing=preprocessing,
    )
    return classifier, description


def outputs_of(
    backbone: BackboneName,
    options: FinetuneOptions,
    image_size: int | None,
    weights: Weights | None,
    classes: int,
) -> int:
    """Class outputs to build the network with: the data set's, or under a stacked head those of its weights."""
    if not HEADS[options.head].on_class_outputs:
        return classes
    published = pretrained_classes(backbone)
    if weights is None:
        return published
    network = build_network(backbone, published, image_size)
    layers = classifier_layers(backbone, network, published)
    outputs = f"{layers.output_layers[0]}.weight"
    head_names = (*layers.output_layers, *layers.auxiliary)
    state = find_weights(network, backbone, weights, head_names, options.weights_key)
    if outputs not in state:
        raise MismatchError(options.weights, f"has no class outputs ({outputs}), which --head {options.head} needs")
    return state[outputs].shape[0]


def require_same_backbone(description: ModelDescription, checkpoint: Mapping[str, object], origin: str) -> None:
    """Raises MismatchError if a checkpoint has another backbone, other backbone weights or other classes."""
    with as_content_of(origin, "checkpoint"):
        recorded, classes = mapping(checkpoint["backbone"]), class_names(checkpoint["classes"])
        name, weights = f"{recorded['source']}/{recorded['name']}", text(recorded["weights"])
        sha256 = text(recorded["sha256"])
    if name != str(description.backbone):
        raise MismatchError(origin, f"was trained on {name}, but the options name {description.backbone}")
    if description.sha256 != sha256:
        found = f"{description.weights}, sha256 {description.sha256[:12]}"
        problem = f"was trained on other weights of {name} ({weights}, sha256 {sha256[:12]}) than those found ({found})"
        raise MismatchError(origin, problem, "Pass the original file: --weights FILE")
    if description.classes != classes:
        raise MismatchError(origin, f"has {count_of(classes)}, but the images have {count_of(description.classes)}")


def count_of(classes: tuple[str, ...]) -> str:
    """The number of classes and the first five names."""
    return f"{count(len(classes), 'class', 'classes')} ({', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''})"


def stored_options(path: str, stored: object) -> FinetuneOptions:
    """Read the options stored in a file. Raises DataError naming path.

    Older versions, which lack some options, had one split and trained the statistics of unfrozen BatchNorm.
    """
    try:
        with as_content_of(path, "record of options"):
            options = mapping(stored)
            before = {"folds": 1, "train_batchnorm": options["unfreeze"] is not None}
            return FinetuneOptions.from_dict({**before, **options})
    except UsageError as error:
        raise DataError(path, f"contains invalid options: {error}") from error
