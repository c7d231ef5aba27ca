"""The images of a run: decoded, and divided into the batches that the training loop eats."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from tlkit.data.bad_images import leave_out, log_left_out
from tlkit.data.batches import FeatureBatches, ImageBatches
from tlkit.data.decoders import Decoder, Pixels, open_decoder, worker_count
from tlkit.data.folder import Dataset, Sample
from tlkit.data.image_file import ImageError
from tlkit.data.ordered_map import map_in_order
from tlkit.data.preprocessing import Preprocessing
from tlkit.data.scan import errors_of_all
from tlkit.data.view import View
from tlkit.devices.select import Devices
from tlkit.distributed.gather import shard_indices
from tlkit.distributed.world import SINGLE_PROCESS, World
from tlkit.errors import DataError
from tlkit.features.backend import Backend, Engines
from tlkit.features.extract import EXTRACTION_BATCH, Extraction
from tlkit.features.extractor import FeatureExtractor, feature_statistics
from tlkit.features.memory_cache import NO_MEMORY, VectorMemory
from tlkit.features.store import NoStore, Store, open_store
from tlkit.interruption import Interruption
from tlkit.model.classifier import Classifier
from tlkit.model.files import ModelDescription
from tlkit.options import FinetuneOptions
from tlkit.terminal import log_status, progress
from tlkit.training.loop import Batches
from tlkit.training.objective import label_tensor


@dataclass(frozen=True)
class PreparedBatches:
    """What the loop trains: module is the head over vectors, or the whole classifier over images.

    of_images: whether the backbone runs whenever they are looked at. world: of those that train it, which is the first
    rank alone where the head is all that trains. measured_together: images of a batch in validation.
    """

    dataset: Dataset
    module: nn.Module
    train: Batches
    val: Batches
    world: World
    measured_together: int
    of_images: bool


@dataclass(frozen=True)
class BatchBuilder:
    """What it takes to turn a run's images into batches: of vectors where the backbone gives the same vector every
    time, else of images.

    fresh: the run starts here, so the head takes its standardization from the training features.
    """

    options: FinetuneOptions
    dataset: Dataset
    classifier: Classifier
    description: ModelDescription
    devices: Devices
    fresh: bool
    signals: Interruption
    world: World
    memory: VectorMemory = NO_MEMORY

    def batches(self) -> PreparedBatches:
        """What the loop trains, and on what. Raises DataError for images that cannot be read."""
        return self.batches_of_images() if self.options.feeds_images() else self.batches_of_vectors()

    def batches_of_vectors(self) -> PreparedBatches:
        """Run the backbone once over every image, or view of it; the head then trains on the vectors."""
        options, bad = self.options, list[ImageError]()
        space = self.engines.cache_namespace(self.engine)
        with closing(open_store(space, options.cache_bytes(), partial(log_status, "warning"))) as store:
            extraction = self.extraction(store)
            if self.fresh or options.augment == "none":
                plain = self.vectors(extraction, self.dataset.train, self.plain_view, "features", bad)
                self.standardize(plain)
            val = self.vectors(extraction, self.dataset.val, self.plain_view, "validation", bad)
            dataset = self.without_bad(bad)
            views = [plain] if options.augment == "none" else self.augmented_vectors(extraction, dataset)
        computed, known = extraction.counts()
        log_status("features", f"{computed:,} computed, {known:,} from the cache")
        train = FeatureBatches(views, labels_of(dataset.train), options.images_per_step(), options.seed)
        measured = Stoppable(FeatureBatches([val], labels_of(dataset.val), 4096, None), self.signals, SINGLE_PROCESS)
        return PreparedBatches(
            dataset,
            self.classifier.head,
            Stoppable(train, self.signals, SINGLE_PROCESS),
            measured,
            SINGLE_PROCESS,
            4096,
            of_images=False,
        )

    def vectors(
        self, extraction: Extraction, samples: Sequence[Sample], view: View, label: str, bad: list[ImageError]
    ) -> Tensor:
        """As Extraction.vectors, or from memory; where images are bad, they are looked at again each time."""

        def find() -> tuple[Tensor, bool]:
            before = len(bad)
            found = extraction.vectors(samples, view, label, bad)
            return found, len(bad) == before

        space = json.dumps(self.engines.cache_namespace(self.engine), sort_keys=True)
        return self.memory.recall((space, view.cache_id), [path for path, _ in samples], find)

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
            dataset = self.without_bad(bad)
            self.standardize(plain)

        def load_training(index: int, epoch: int) -> Pixels:
            return self.load(dataset.train[index], self.view(epoch))

        def load_validation(index: int, epoch: int) -> Pixels:
            return self.load(dataset.val[index], self.plain_view)

        train_labels, val_labels = labels_of(dataset.train), labels_of(dataset.val)
        shaped, size, world = self.preprocessing, options.images_per_step(), self.world
        train = ImageBatches(load_training, train_labels, shaped, size, options.seed, workers, world)
        val = ImageBatches(load_validation, val_labels, shaped, self.passing, None, workers, world)
        return PreparedBatches(
            dataset,
            self.devices.data_parallel(self.quick_classifier() if options.unfreeze is None else self.classifier),
            Stoppable(train, self.signals, world, "training"),
            Stoppable(val, self.signals, world, "validation"),
            world,
            self.passing,
            of_images=True,
        )

    def quick_classifier(self) -> Classifier:
        """The same head on a copy of the frozen backbone that only passes images."""
        return Classifier(
            self.classifier.backbone.optimized_for_inference(self.preprocessing.image_size), self.classifier.head
        )

    def damaged(self, samples: Sequence[Sample]) -> list[ImageError]:
        """Decode images once, so that a damaged one is found before any epoch; each rank its share."""

        def find_damage(number: int) -> ImageError | None:
            try:
                self.decoder.load_sample(samples[number], self.plain_view)
            except ImageError as error:
                return error
            return None

        mine = shard_indices(len(samples), self.passing, self.world)
        outcomes = map_in_order(find_damage, mine, workers=worker_count(self.options.workers), ahead=64)
        found = zip(mine, progress(outcomes, "checking", len(mine)), strict=True)
        return errors_of_all([(number, error) for number, error in found if error], samples, self.world)

    def without_bad(self, bad: Sequence[ImageError]) -> Dataset:
        """The data without its bad images. The first rank decides whether the run may go on so, and tells; the others
        wait for that. Raises DataError there if it may not."""
        if self.world.is_first:
            kept = leave_out(self.options, self.dataset, bad)
            log_left_out(bad)
            self.world.barrier()
            return kept
        self.world.barrier()
        return leave_out(self.options, self.dataset, bad)

    def extraction(self, store: Store) -> Extraction:
        """The pass of this run's backbone."""
        workers = worker_count(self.options.workers)
        return Extraction(self.engines.extract(self.engine), store, self.decoder, workers, self.passing, self.world)

    @cached_property
    def engine(self) -> Backend:
        """What computes the features of this run, from its start to its end."""
        return self.engines.choose(self.image_count(), self.world.size)

    @cached_property
    def engines(self) -> Engines:
        torch_pass = FeatureExtractor(
            self.classifier.backbone, self.preprocessing, self.devices.first, self.devices.data_parallel, say_parts
        )
        return Engines(self.options, self.description, torch_pass)

    def image_count(self) -> int:
        """How many features the run needs: one for each image, and one for each augmented view of a training image."""
        views = 0 if self.options.augment == "none" else self.options.view_count()
        return len(self.dataset.val) + len(self.dataset.train) * (1 + views)

    @property
    def passing(self) -> int:
        """Images that pass the backbone together where nothing trains."""
        return EXTRACTION_BATCH[self.devices.first.type]

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
            return self.decoder.load_sample(sample, view).pixels
        except ImageError as error:
            raise DataError(sample.path, error.message, "It was readable when the run began.") from error

    def standardize(self, features: Tensor) -> None:
        """Where the run starts here, give the head the mean and deviation of the training features [N, ...]. The other
        ranks have none; they get the first one's head."""
        if self.fresh and self.world.is_first:
            statistics = feature_statistics(torch.split(features, 4096))
            assert statistics is not None, "every class has a readable image"
            self.classifier.head.set_standardization(*statistics)


def labels_of(samples: Sequence[Sample]) -> Tensor:
    """[N] int64"""
    return label_tensor(sample.label for sample in samples)


def say_parts(size: int) -> None:
    """That memory was used up in the pass, and what is done about it."""
    log_status("warning", f"memory was used up: images pass {size} at a time; vectors may differ in their last digits")


class Stoppable:
    """Batches that end between two of them when a signal has come to any rank; with a label, also a progress bar."""

    def __init__(self, batches: Batches, signals: Interruption, world: World, label: str | None = None) -> None:
        self.batches = batches
        self.signals = signals
        self.world = world
        self.label = label

    @property
    def steps_per_epoch(self) -> int:
        return self.batches.steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor, int]]:
        """As the batches themselves. Raises Interrupted, at the same step in every rank."""
        batches = self.batches.epoch(epoch, first_step)
        steps = self.steps_per_epoch - first_step
        for batch in progress(batches, self.label, steps, "batch") if self.label else batches:
            collected = self.world.all_reduce_max(self.signals.requested or 0)
            if collected:  # by all ranks; what comes to one of them meanwhile they hear at the next step
                self.signals.requested = collected
                self.signals.raise_if_requested()
            yield batch
