"""What is done once before the trials: each backbone sees every image, and is measured."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from tlkit.commands.assembly import assemble
from tlkit.commands.devices import choose_device, make_deterministic
from tlkit.commands.images import Preparation
from tlkit.commands.training_run import resolve
from tlkit.data.folder import Dataset
from tlkit.errors import TlkitError
from tlkit.interruption import Interruption
from tlkit.model.features import FeatureExtractor
from tlkit.model.inference import choose_precision
from tlkit.options import FinetuneOptions
from tlkit.terminal import compact, say

MEASURED_SECONDS = 0.5
"""How long a backbone is measured."""


@dataclass(frozen=True)
class Facts:
    """A backbone with its head, measured. images_per_second: through the network alone, pixels in memory."""

    images_per_second: float
    parameters: int


def vectors_key(options: FinetuneOptions) -> tuple[object, ...]:
    """What of a trial's options decides the vectors that it needs."""
    views = (options.augment, options.view_count(), options.seed) if options.augment != "none" else ()
    return (facts_key(options), options.feeds_images(), *views)


def facts_key(options: FinetuneOptions) -> tuple[object, ...]:
    """What of a trial's options decides the network that sees the images."""
    seed = options.seed if options.weights == "none" else None
    return (
        options.backbone,
        options.weights,
        options.image_size,
        options.head,
        options.hidden,
        options.precision,
        seed,
    )


def prepare(
    trials: Iterable[FinetuneOptions],
    known: Mapping[tuple[object, ...], Facts],
    dataset: Dataset,
    signals: Interruption,
) -> dict[tuple[object, ...], Facts]:
    """Have each backbone of the trials see every image once, its vectors kept in the store; measure it if it is not
    known.

    A backbone that cannot be had is told; its trials will fail, each with the reason, and no other.
    """
    facts = dict(known)
    done: set[tuple[object, ...]] = set()
    for options in trials:
        signals.raise_if_requested()
        if vectors_key(options) in done:
            continue
        done.add(vectors_key(options))
        try:
            facts[facts_key(options)] = see_all(options, facts.get(facts_key(options)), dataset, signals)
        except TlkitError as error:
            say("warning", f"{options.backbone}: {error}")
    return facts


def see_all(options: FinetuneOptions, known: Facts | None, dataset: Dataset, signals: Interruption) -> Facts:
    """The one pass of one backbone, and its measure if that is not known."""
    resolved = resolve(options)
    make_deterministic(resolved.deterministic)
    device = choose_device(resolved.device)
    classifier, description = assemble(resolved, dataset.classes)
    classifier.to(device)
    classifier.backbone.precision = choose_precision(resolved.precision, device)
    parameters = sum(parameter.numel() for parameter in classifier.parameters())
    size = f"{description.preprocessing.image_size[1]}x{description.preprocessing.image_size[0]} px"
    say("backbone", f"{resolved.backbone} at {size}, {compact(parameters)} parameters")
    with closing(Preparation(resolved, dataset, classifier, description, device, True, signals)) as preparation:
        if not resolved.feeds_images():
            preparation.batches()
        if known is not None:
            return known
        extractor = FeatureExtractor(classifier.backbone, description.preprocessing, device)
        return Facts(images_per_second(extractor, preparation.passing), parameters)


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
