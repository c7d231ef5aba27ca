"""The images of a run: decoded, and divided into the batches that the training loop eats."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from tlkit.commands.extraction import EXTRACTION_BATCH, Extraction
from tlkit.commands.image_check import without_bad
from tlkit.commands.vector_memory import NO_MEMORY, VectorMemory
from tlkit.data.batches import ImageBatches, VectorBatches
from tlkit.data.decoders import Decoder, Pixels, open_decoder
from tlkit.data.folder import Dataset, Sample
from tlkit.data.image_file import ImageError
from tlkit.data.in_order import map_in_order
from tlkit.data.preprocessing import Preprocessing
from tlkit.data.view import View
from tlkit.errors import DataError
from tlkit.interruption import Interruption
from tlkit.model.classifier import Classifier
from tlkit.model.feature_store import NoStore, Store, open_store
from tlkit.model.features import FeatureExtractor, feature_statistics
from tlkit.model.files import ModelDescription
from tlkit.options import FinetuneOptions, worker_count
from tlkit.terminal import progress, say
from tlkit.training.loop import Batches


@dataclass(frozen=True)
class PreparedBatches:
    """What the loop trains: module is the head over vectors, or the whole classifier over images."""

    dataset: Dataset
    module: nn.Module
    train: Batches
    val: Batches


@dataclass(frozen=True)
class Preparation:
    """What it takes to turn a run's images into batches: of vectors where the backbone gives the same vector every
    time, else of images.

    fresh: the run starts here, so the head takes its standardisation from the training features.
    """

    options: FinetuneOptions
    dataset: Dataset
    classifier: Classifier
    description: ModelDescription
    device: torch.device
    fresh: bool
    signals: Interruption
    memory: VectorMemory = NO_MEMORY

    def batches(self) -> PreparedBatches:
        """What the loop trains, and on what. Raises DataError for images that cannot be read."""
        return self.batches_of_images() if self.options.feeds_images() else self.batches_of_vectors()

    def batches_of_vectors(self) -> PreparedBatches:
        """Run the backbone once over every image, or view of it; the head then trains on the vectors."""
        options, bad = self.options, list[ImageError]()
        with closing(open_store(self.space(), options.cache_bytes(), partial(say, "warning"))) as store:
            extraction = self.extraction(store)
            if self.fresh or options.augment == "none":
                plain = self.vectors(extraction, self.dataset.train, self.plain_view, "features", bad)
                if self.fresh:
                    self.standardise(feature_statistics(torch.split(plain, 4096)))
            val = self.vectors(extraction, self.dataset.val, self.plain_view, "validation", bad)
            dataset = without_bad(options, self.dataset, bad)
            views = [plain] if options.augment == "none" else self.augmented_vectors(extraction, dataset)
        say("features", f"{extraction.computed:,} computed, {extraction.known:,} from the cache")
        train = VectorBatches(views, labels_of(dataset.train), options.batch_size, options.seed)
        return PreparedBatches(
            dataset,
            self.classifier.head,
            Stoppable(train, self.signals),
            Stoppable(VectorBatches([val], labels_of(dataset.val), 4096, None), self.signals),
        )

    def vectors(
        self, extraction: Extraction, samples: Sequence[Sample], view: View, label: str, bad: list[ImageError]
    ) -> Tensor:
        """As Extraction.vectors, or from memory; where images are bad, they are looked at again each time."""

        def find() -> tuple[Tensor, bool]:
            before = len(bad)
            found = extraction.vectors(samples, view, label, bad)
            return found, len(bad) == before

        space = json.dumps(self.space(), sort_keys=True)
        return self.memory.recall((space, view.name, tuple(path for path, _ in samples)), find)

    def augmented_vectors(self, extraction: Extraction, dataset: Dataset) -> list[Tensor]:
        """The vectors [N, ...] of each augmented view of the training images."""
        count = self.options.view_count()
        bad: list[ImageError] = []
        views = [
            self.vectors(extraction, dataset.train, self.view(number), f"view {number + 1}/{count}", bad)
            for number in range(count)
        ]
        if bad:
            raise DataError(bad[0].path, bad[0].message, "It was readable when the run began.")
        return views

    def batches_of_images(self) -> PreparedBatches:
        """Feed images to the whole classifier in every epoch, augmented afresh if asked for."""
        dataset, options = self.dataset, self.options
        workers = worker_count(options.workers)
        if self.fresh:
            bad: list[ImageError] = []
            plain = self.extraction(NoStore()).vectors(dataset.train, self.plain_view, "features", bad)
            bad += self.damaged(dataset.val)
            dataset = without_bad(options, dataset, bad)
            self.standardise(feature_statistics(torch.split(plain, 4096)))

        def load_training(index: int, epoch: int) -> Pixels:
            return self.load(dataset.train[index], self.view(epoch))

        def load_validation(index: int, epoch: int) -> Pixels:
            return self.load(dataset.val[index], self.plain_view)

        train_labels, val_labels = labels_of(dataset.train), labels_of(dataset.val)
        train = ImageBatches(load_training, train_labels, self.preprocessing, options.batch_size, options.seed, workers)
        val = ImageBatches(load_validation, val_labels, self.preprocessing, self.passing, None, workers)
        return PreparedBatches(
            dataset,
            self.classifier,
            Stoppable(train, self.signals, "training"),
            Stoppable(val, self.signals, "validation"),
        )

    def damaged(self, samples: Sequence[Sample]) -> list[ImageError]:
        """Decode images once, so that a damaged one is found before any epoch."""

        def find_damage(sample: Sample) -> ImageError | None:
            try:
                self.decoder.load(sample.path, self.plain_view)
            except ImageError as error:
                return error
            return None

        outcomes = map_in_order(find_damage, samples, workers=worker_count(self.options.workers), ahead=64)
        return [error for error in progress(outcomes, "checking", len(samples)) if error]

    def extraction(self, store: Store) -> Extraction:
        """The pass of this run's backbone."""
        extractor = FeatureExtractor(self.classifier.backbone, self.preprocessing, self.device)
        return Extraction(extractor, store, self.decoder, worker_count(self.options.workers), self.passing)

    @property
    def passing(self) -> int:
        """Images that pass the backbone together where nothing trains."""
        return EXTRACTION_BATCH[self.device.type]

    def space(self) -> dict[str, Any]:
        """What determines a vector beside the image and its view."""
        return {
            "backbone": str(self.description.backbone),
            "features": "class outputs" if self.options.head == "stack" else "what enters the classifier",
            "weights": self.description.weights,
            "weights_sha256": self.description.sha256,
            "preprocessing": self.preprocessing.to_dict(),
            "precision": self.classifier.backbone.precision,
            "device": self.device.type,
            "versions": {name: version(name) for name in ("torch", "torchvision", "timm", "pillow")},
        }

    @property
    def preprocessing(self) -> Preprocessing:
        return self.description.preprocessing

    @cached_property
    def decoder(self) -> Decoder:
        """What opens this run's images, in this pass and in all epochs."""
        return open_decoder(worker_count(self.options.workers))

    def close(self) -> None:
        """No image is opened any more."""
        self.decoder.close()

    @property
    def plain_view(self) -> View:
        """Images as they are."""
        return View(self.preprocessing, self.options.max_pixels)

    def view(self, epoch: int) -> View:
        """Training images as they are seen in an epoch."""
        options = self.options
        return View(self.preprocessing, options.max_pixels, augment=options.augment, seed=options.seed, epoch=epoch)

    def load(self, sample: Sample, view: View) -> Pixels:
        """An image that was readable before; if it no longer is, training cannot go on. Raises DataError."""
        try:
            return self.decoder.load(sample.path, view).pixels
        except ImageError as error:
            raise DataError(sample.path, error.message, "It was readable when the run began.") from error

    def standardise(self, statistics: tuple[Tensor, Tensor] | None) -> None:
        """Give the head the mean and deviation of the training features."""
        assert statistics is not None, "every class has a readable image"
        self.classifier.head.set_standardisation(*statistics)


def labels_of(samples: Sequence[Sample]) -> Tensor:
    """[N] int64"""
    return torch.tensor([sample.label for sample in samples], dtype=torch.int64)


class Stoppable:
    """Batches that end between two of them when a signal has come; with a label, also a progress bar."""

    def __init__(self, batches: Batches, signals: Interruption, label: str | None = None) -> None:
        self.batches = batches
        self.signals = signals
        self.label = label

    @property
    def steps_per_epoch(self) -> int:
        return self.batches.steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """As the batches themselves. Raises Interrupted."""
        batches = self.batches.epoch(epoch, first_step)
        steps = self.steps_per_epoch - first_step
        for batch in progress(batches, self.label, steps, "batch") if self.label else batches:
            self.signals.raise_if_requested()
            yield batch
