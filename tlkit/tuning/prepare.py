"""Before the trials: compute the features of each backbone once, and measure its speed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from tlkit.data.folder import Dataset
from tlkit.distributed.world import SINGLE_PROCESS
from tlkit.errors import TlkitError
from tlkit.features.backend import Backend
from tlkit.features.extractor import FeatureExtractor
from tlkit.interruption import Interruption
from tlkit.model.head import HEADS, HeadShape
from tlkit.options import FinetuneOptions
from tlkit.runs.batches import BatchBuilder
from tlkit.runs.plan import Plan
from tlkit.runs.setup import resolve, set_up
from tlkit.terminal import compact, log_status

MEASURED_SECONDS = 0.5
"""Seconds to measure a backbone."""

Key = tuple[object, ...]
"""Values of those options of a trial on which something depends."""


@dataclass(frozen=True)
class Network:
    """A backbone and its speed.

    images_per_second: of the backbone, pixels in memory. parameters: of the backbone. width: of its features.
    bias: whether a linear head on it has one.
    """

    images_per_second: float
    parameters: int
    width: int
    bias: bool
    classes: int

    def parameters_with(self, head: str, hidden: int | None) -> int:
        """Parameters of backbone and head."""
        kind = HEADS[head]
        shape = HeadShape(self.width, self.classes, kind.hidden(hidden), bias=self.bias)
        return self.parameters + kind.parameters(shape)


@dataclass(frozen=True)
class Prepared:
    """Backbones by `network_key`; the backend that computed features, by `features_key`.

    A trial must use the same backend, because it is part of the cache key of features.
    """

    networks: dict[Key, Network] = field(default_factory=dict)
    backends: dict[Key, Backend] = field(default_factory=dict)


def features_key(options: FinetuneOptions) -> Key:
    """The options of a trial on which its features depend."""
    views = (options.augment, options.view_count(), options.seed) if options.augment != "none" else ()
    return (network_key(options), options.feeds_images(), *views)


def network_key(options: FinetuneOptions) -> Key:
    """The options of a trial on which its backbone depends, and whether the head keeps the backbone's hidden layers."""
    seed = options.seed if options.weights == "none" else None
    is_stacked = HEADS[options.head].on_class_outputs
    return (
        options.backbone,
        options.weights,
        options.weights_key,
        options.image_size,
        is_stacked,
        options.precision,
        seed,
    )


def prepare(
    trials: Iterable[FinetuneOptions], speeds: Mapping[Key, float | None], dataset: Dataset, signals: Interruption
) -> Prepared:
    """Compute and cache the features of every backbone, and measure those whose speed is not in `speeds`.

    A backbone that fails is a warning here; each of its trials will fail with the reason. Raises Interrupted.
    """
    prepared = Prepared()
    done: set[Key] = set()
    for options in trials:
        signals.raise_if_requested()
        if features_key(options) in done:
            continue
        done.add(features_key(options))
        try:
            network, backend = compute_features(options, speeds.get(network_key(options)), dataset, signals)
        except TlkitError as error:
            log_status("warning", f"{options.backbone}: {error}")
        else:
            prepared.networks[network_key(options)] = network
            prepared.backends[features_key(options)] = backend
    return prepared


def compute_features(
    options: FinetuneOptions, speed: float | None, dataset: Dataset, signals: Interruption
) -> tuple[Network, Backend]:
    """Cache the features of all images. Returns the backbone and the backend. speed: images per second if known."""
    setup = set_up(Plan(resolve(options), dataset), SINGLE_PROCESS)
    classifier, description = setup.classifier, setup.description
    size = f"{description.preprocessing.image_size[1]}x{description.preprocessing.image_size[0]} px"
    parameters = classifier.backbone.own_parameters()
    log_status("backbone", f"{setup.options.backbone} at {size}, {compact(parameters)} parameters")
    with closing(BatchBuilder(setup, signals)) as builder:
        backend = builder.engine
        if not setup.options.feeds_images():
            builder.batches()
        if speed is None:
            extractor = FeatureExtractor(classifier.backbone, description.preprocessing, setup.devices.first)
            speed = images_per_second(extractor, builder.extraction_batch)
    bias = HEADS[options.head].on_class_outputs or classifier.backbone.has_bias()
    return Network(speed, parameters, len(classifier.head.mean), bias, len(dataset.classes)), backend


def images_per_second(extractor: FeatureExtractor, batch_size: int) -> float:
    """Measure the speed of a backbone with random pixels, after one batch as warm-up."""
    height, width = extractor.preprocessing.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, height, width, 3), np.uint8)
    extractor(pixels).sum().item()
    images, began = 0, time.perf_counter()
    while images == 0 or time.perf_counter() - began < MEASURED_SECONDS:
        extractor(pixels).sum().item()
        images += batch_size
    return images / (time.perf_counter() - began)
