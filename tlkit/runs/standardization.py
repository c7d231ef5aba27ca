"""The standardization of a new run's head: mean and deviation of the features that it will train on."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from random import Random

import numpy as np
import torch
from torch import Tensor

from tlkit.data.decoders import Pixels
from tlkit.data.folder import Sample
from tlkit.data.normalize import normalize
from tlkit.errors import DataError
from tlkit.features.extractor import feature_statistics
from tlkit.options import FinetuneOptions
from tlkit.runs.setup import TrainingSetup
from tlkit.terminal import log_status
from tlkit.training.batch_norm import BATCH_NORMS, LocalBatchNorm

SAME = 1e-6
"""Deviation of features that counts as none, as a share of the largest mean: the precision of fp32."""

STANDARD_LENGTH, FAR = 8.0, 10.0
"""The mean length of standardized features, see Head.set_standardization; and the factor from which they do not fit."""

MOST_TRIED = 32
"""Images whose features in training are compared with those of running statistics."""


def standardize(setup: TrainingSetup, features: Tensor) -> None:
    """In a new run, give the head the mean and deviation of the training features [N, ...].

    Only rank 0 has all features; the other ranks receive its head. Raises DataError if all images have the same
    features, which no head can tell apart; a backbone that trains too may change that, so then this only warns.
    """
    if not (setup.is_new and setup.world.is_first):
        return
    statistics = feature_statistics(torch.split(features, 4096))
    assert statistics is not None, "every class has a readable image"
    mean, deviation = statistics
    if deviation.max() <= SAME * mean.abs().max():
        problem = "the features are the same for all training images"
        if setup.options.unfreeze is None:
            hint = "The weights may be damaged or zero: try other --weights or another --backbone."
            hint += f"\nOr the images are equal: see tlkit check {shlex.quote(setup.options.data)}"
            raise DataError(str(setup.description.backbone), problem, hint)
        log_status("warning", f"{problem}; the weights may be damaged or zero")
    setup.classifier.head.set_standardization(mean, deviation)


def first_batch(samples: Sequence[Sample], options: FinetuneOptions) -> list[Sample]:
    """Random samples, as many as a batch has."""
    return Random(options.seed).sample(samples, min(len(samples), options.images_per_step(), MOST_TRIED))


def standardize_for_batches(setup: TrainingSetup, load: Callable[[], Sequence[Pixels]]) -> None:
    """Standardize the head to the features of a training batch if those are far from the features so far.

    Those so far come of the running statistics of BatchNorm. Where these do not fit (random weights), training, which
    takes the statistics of each batch, has features hundreds of times as large, and the first step spoils the head.
    load: reads the images of a batch.
    """
    classifier = setup.classifier.train()
    norms = [part for part in classifier.modules() if isinstance(part, BATCH_NORMS) and part.training]
    if not norms or not setup.world.is_first:
        return
    pixels = torch.from_numpy(np.stack(load()))
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    with torch.no_grad(), LocalBatchNorm(classifier):
        images = normalize(pixels, setup.description.preprocessing).to(setup.devices.first)
        features = classifier.backbone(images).flatten(0, -2)  # [S, D]
    for buffer, value in before:
        buffer.copy_(value)
    head = classifier.head
    if ((features - head.mean) / head.std).norm(dim=1).mean() > FAR * STANDARD_LENGTH:
        statistics = feature_statistics([features])
        assert statistics is not None
        head.set_standardization(*statistics)
        problem = "the running statistics of BatchNorm do not fit these images (random weights?)"
        log_status(
            "warning", f"{problem}: the head is standardized to a training batch, and validation is poor at first"
        )
