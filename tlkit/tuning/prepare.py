"""What is done once before the trials: each backbone sees every image, and is measured."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tlkit.data.folder import Dataset
from tlkit.distributed.world import SINGLE_PROCESS
from tlkit.errors import TlkitError
from tlkit.features.backend import Backend
from tlkit.features.extractor import FeatureExtractor
from tlkit.interruption import Interruption
from tlkit.model.classifier import DEFAULT_HIDDEN
from tlkit.options import FinetuneOptions
from tlkit.runs.batches import BatchBuilder
from tlkit.runs.setup import build, resolve
from tlkit.terminal import compact, log_status

MEASURED_SECONDS = 0.5
"""How long a backbone is measured."""


Key = tuple[object, ...]
"""What of a trial's options decides something, by their values."""


@dataclass(frozen=True)
class Network:
    """A backbone, measured.

    images_per_second: through it alone, pixels in memory. width: of what it gives to a head. bias: whether a linear
    head has one.
    """

    images_per_second: float
    parameters: int
    width: int
    bias: bool
    classes: int

    def parameters_with(self, head: str, hidden: int | None) -> int:
        """Of backbone and head together."""
        if head != "mlp":
            return self.parameters + (self.width + self.bias) * self.classes
        layer = hidden or DEFAULT_HIDDEN
        return self.parameters + (self.width + 1) * layer + (layer + 1) * self.classes


@dataclass(frozen=True)
class Prepared:
    """What is known before the trials. engines: what computed vectors, and so must look them up."""

    networks: dict[Key, Network] = field(default_factory=dict)
    engines: dict[Key, Backend] = field(default_factory=dict)

    def facts_of(self, options: FinetuneOptions) -> dict[str, Any]:
        """A trial's images_per_second and parameters, if they are known."""
        network = self.networks.get(network_key(options))
        if network is None:
            return {}
        parameters = network.parameters_with(options.head, options.hidden)
        return {"images_per_second": network.images_per_second, "parameters": parameters}

    def engine_of(self, options: FinetuneOptions) -> str:
        """What computes a trial's features; as the options say where none has been computed."""
        return self.engines.get(vectors_key(options), options.engine)


def vectors_key(options: FinetuneOptions) -> Key:
    """What of a trial's options decides the vectors that it needs."""
    views = (options.augment, options.view_count(), options.seed) if options.augment != "none" else ()
    return (network_key(options), options.feeds_images(), *views)


def network_key(options: FinetuneOptions) -> Key:
    """What of a trial's options decides the network that sees the images; of a head, only whether it is put on top."""
    seed = options.seed if options.weights == "none" else None
    is_stacked = options.head == "stack"
    return (options.backbone, options.weights, options.image_size, is_stacked, options.precision, seed)


def prepare(
    trials: Iterable[FinetuneOptions], speeds: Mapping[Key, float], dataset: Dataset, signals: Interruption
) -> Prepared:
    """Have each backbone of the trials see every image once, its vectors kept in the store; measure it unless its
    speed is known.

    A backbone that cannot be had is told; its trials will fail, each with the reason, and no other.
    """
    prepared = Prepared()
    done: set[Key] = set()
    for options in trials:
        signals.raise_if_requested()
        if vectors_key(options) in done:
            continue
        done.add(vectors_key(options))
        try:
            network, engine = see_all(options, speeds.get(network_key(options)), dataset, signals)
        except TlkitError as error:
            log_status("warning", f"{options.backbone}: {error}")
        else:
            prepared.networks[network_key(options)] = network
            prepared.engines[vectors_key(options)] = engine
    return prepared


def see_all(
    options: FinetuneOptions, speed: float | None, dataset: Dataset, signals: Interruption
) -> tuple[Network, Backend]:
    """The one pass of one backbone, by what it was computed, and its measure. speed: if that is known."""
    built = build(resolve(options), dataset, None, SINGLE_PROCESS, dataset.root)
    resolved, classifier, description = built.options, built.classifier, built.description
    size = f"{description.preprocessing.image_size[1]}x{description.preprocessing.image_size[0]} px"
    parameters = classifier.backbone.own_parameters()
    log_status("backbone", f"{resolved.backbone} at {size}, {compact(parameters)} parameters")
    preparation = BatchBuilder(resolved, dataset, classifier, description, built.devices, True, signals, SINGLE_PROCESS)
    with closing(preparation):
        engine = preparation.engine
        if not resolved.feeds_images():
            preparation.batches()
        if speed is None:
            extractor = FeatureExtractor(classifier.backbone, description.preprocessing, built.devices.first)
            speed = images_per_second(extractor, preparation.passing)
    bias = options.head == "stack" or classifier.backbone.has_bias()
    return Network(speed, parameters, len(classifier.head.mean), bias, len(dataset.classes)), engine


def images_per_second(extractor: FeatureExtractor, batch: int) -> float:
    """How quickly pixels become vectors, in the batches of the pass."""
    height, width = extractor.preprocessing.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)
    extractor(pixels).sum().item()  # what is made once is made now
    images, began = 0, time.perf_counter()
    while images == 0 or time.perf_counter() - began < MEASURED_SECONDS:
        extractor(pixels).sum().item()
        images += batch
    return images / (time.perf_counter() - began)
