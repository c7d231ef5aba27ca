"""The batches of a run: images decoded, features computed where the backbone is frozen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from tlkit.data.bad_images import leave_out, log_left_out
from tlkit.data.batches import NO_LABEL, FeatureBatches, ImageBatches
from tlkit.data.decoders import Decoder, Pixels, open_decoder, worker_count
from tlkit.data.folder import Dataset, Sample
from tlkit.data.image_file import ImageError
from tlkit.data.ordered_map import map_in_order
from tlkit.data.preprocessing import Preprocessing
from tlkit.data.scan import errors_of_all
from tlkit.data.view import View
from tlkit.distributed.sharding import shard_indices
from tlkit.distributed.world import SINGLE_PROCESS, World
from tlkit.errors import DataError
from tlkit.features.backend import Backend, Engines
from tlkit.features.extract import EXTRACTION_BATCH, Extraction
from tlkit.features.extractor import FeatureExtractor
from tlkit.features.memory_cache import NO_MEMORY, FeatureMemory
from tlkit.features.store import NoStore, Store, open_store
from tlkit.interruption import Interruption
from tlkit.model.classifier import Classifier
from tlkit.options import FinetuneOptions
from tlkit.runs.setup import TrainingSetup
from tlkit.runs.standardization import first_batch, standardize, standardize_for_batches
from tlkit.terminal import log_status, progress
from tlkit.training.loop import Batch, Batches
from tlkit.training.objective import label_tensor

HEAD_VAL_BATCH, HEAD_VAL_SCORES = 4096, 1 << 21
"""Most features that pass through the head together in validation, and most scores that they may give."""

NO_LONGER_READABLE = "It was readable when the run started."


@dataclass(frozen=True)
class PreparedBatches:
    """The inputs of the training loop. module: the head over features, or the whole classifier over images.

    dataset: without skipped images. world: the ranks that train; rank 0 alone where only the head trains.
    val_batch_size: images of a validation batch. of_images: whether the backbone runs in every epoch.
    """

    dataset: Dataset
    module: nn.Module
    train: Batches
    val: Batches
    world: World
    val_batch_size: int
    of_images: bool


@dataclass(frozen=True)
class BatchBuilder:
    """Builds the batches of a run: of features where the backbone gives the same ones in every epoch, else of images.

    memory: features that earlier runs of this process have kept.
    """

    setup: TrainingSetup
    signals: Interruption
    memory: FeatureMemory = NO_MEMORY

    def batches(self) -> PreparedBatches:
        """All ranks call this together. Raises DataError for images that cannot be read."""
        return self.image_batches() if self.options.feeds_images() else self.feature_batches()

    def feature_batches(self) -> PreparedBatches:
        """Run the backbone once over every image, or over every augmented view; the head trains on the features."""
        options, samples, bad = self.options, self.setup.dataset, list[ImageError]()
        namespace = self.engines.cache_namespace(self.engine)
        with closing(open_store(namespace, options.cache_bytes(), partial(log_status, "warning"))) as store:
            extraction = self.extraction(store)
            plain = torch.empty(0)
            if self.setup.is_new or options.augment == "none" or samples.folds:
                plain = self.features(extraction, samples.train, self.plain_view, "features", bad)
                standardize(self.setup, plain)
            val = plain if samples.folds else self.features(extraction, samples.val, self.plain_view, "validation", bad)
            dataset = self.without_bad(bad)
            views, count, bad = [plain], options.view_count(), []
            if options.augment != "none":
                views = [
                    self.features(extraction, dataset.train, self.view(number), f"view {number + 1}/{count}", bad)
                    for number in range(count)
                ]
            if bad:
                raise DataError(bad[0].path, bad[0].message, NO_LONGER_READABLE)
        computed, cached = extraction.counts()
        log_status("features", f"{computed:,} computed, {cached:,} cached (image embeddings)")
        train_labels, val_labels = labels_of(dataset.train), labels_of(dataset.val)
        if dataset.folds:
            train_labels, val_labels = labels_of_folds(dataset, options.folds or 1)
        train_batches = FeatureBatches(views, train_labels, options.images_per_step(), options.seed)
        train_batches.weights = weights_of(dataset)
        scores = len(dataset.classes) * max(1, val_labels[:1].numel())  # of one image, by all heads
        val_size = max(1, min(HEAD_VAL_BATCH, HEAD_VAL_SCORES // scores))
        val_batches = FeatureBatches([val], val_labels, val_size, None)
        return PreparedBatches(
            dataset,
            self.setup.classifier.trained_head,
            Stoppable(train_batches, self.signals, SINGLE_PROCESS),
            Stoppable(val_batches, self.signals, SINGLE_PROCESS),
            SINGLE_PROCESS,
            val_size,
            of_images=False,
        )

    def features(
        self, extraction: Extraction, samples: Sequence[Sample], view: View, label: str, bad: list[ImageError]
    ) -> Tensor:
        """The features [N, ...] of readable images, from memory or computed; unreadable images are added to `bad`.

        A result that lacks images is not kept in memory, so that they are found again by the next run.
        """

        def compute() -> tuple[Tensor, bool]:
            before = len(bad)
            found = extraction.features(samples, view, label, bad)
            return found, len(bad) == before

        namespace = json.dumps(self.engines.cache_namespace(self.engine), sort_keys=True)
        return self.memory.recall((namespace, view.cache_id), [path for path, _ in samples], compute)

    def image_batches(self) -> PreparedBatches:
        """Feed images to the whole classifier in every epoch, with a new augmentation each time."""
        dataset, options, world = self.setup.dataset, self.options, self.setup.world
        workers = worker_count(options.workers)
        if self.setup.is_new:
            bad: list[ImageError] = []
            plain = self.extraction(NoStore()).features(dataset.train, self.plain_view, "features", bad)
            bad += self.damaged(dataset.val)
            dataset = self.without_bad(bad)
            standardize(self.setup, plain)
            samples = first_batch(dataset.train, self.setup.options)
            standardize_for_batches(self.setup, lambda: [self.load(sample, self.plain_view) for sample in samples])

        def load_training(index: int, epoch: int) -> Pixels:
            return self.load(dataset.train[index], self.view(epoch))

        def load_validation(index: int, epoch: int) -> Pixels:
            return self.load(dataset.val[index], self.plain_view)

        train_labels, val_labels = labels_of(dataset.train), labels_of(dataset.val)
        shaped, size, val_size = self.preprocessing, options.images_per_step(), self.extraction_batch
        train_batches = ImageBatches(load_training, train_labels, shaped, size, options.seed, workers, world)
        train_batches.weights = weights_of(dataset)
        val_batches = ImageBatches(load_validation, val_labels, shaped, val_size, None, workers, world)
        classifier = self.setup.classifier
        if options.unfreeze is None:  # the same head on a copy of the backbone that is optimized for inference
            backbone = classifier.backbone.optimized_for_inference(shaped.image_size)
            classifier = Classifier(backbone, classifier.head)
        return PreparedBatches(
            dataset,
            self.setup.devices.data_parallel(classifier),
            Stoppable(train_batches, self.signals, world, "training"),
            Stoppable(val_batches, self.signals, world, "validation"),
            world,
            val_size,
            of_images=True,
        )

    def damaged(self, samples: Sequence[Sample]) -> list[ImageError]:
        """Decode images once, to find damaged ones before training; each rank decodes its share."""

        def find_damage(number: int) -> ImageError | None:
            try:
                self.decoder.load_sample(samples[number], self.plain_view)
            except ImageError as error:
                return error
            return None

        world = self.setup.world
        own = shard_indices(len(samples), self.extraction_batch, world)
        outcomes = map_in_order(find_damage, own, workers=worker_count(self.options.workers), ahead=64)
        found = zip(own, progress(outcomes, "checking", len(own)), strict=True)
        return errors_of_all([(number, error) for number, error in found if error], samples, world)

    def without_bad(self, bad: Sequence[ImageError]) -> Dataset:
        """The dataset without unreadable images. Raises DataError if they may not be skipped: on rank 0, while the
        other ranks wait, so that the error is reported once."""
        options, dataset, world = self.options, self.setup.dataset, self.setup.world
        if world.is_first:
            kept = leave_out(options, dataset, bad)
            log_left_out(bad)
            world.barrier()
            return kept
        world.barrier()
        return leave_out(options, dataset, bad)

    def extraction(self, store: Store) -> Extraction:
        """The computation of this run's features."""
        workers = worker_count(self.options.workers)
        extract = self.engines.extract(self.engine)
        return Extraction(extract, store, self.decoder, workers, self.extraction_batch, self.setup.world)

    @cached_property
    def engine(self) -> Backend:
        """The library that computes the features of this run, from its start to its end."""
        views = 0 if self.options.augment == "none" else self.options.view_count()
        images = len(self.setup.dataset.images) + len(self.setup.dataset.train) * views
        return self.engines.choose(images, self.setup.world.size)

    @cached_property
    def engines(self) -> Engines:
        backbone, devices = self.setup.classifier.backbone, self.setup.devices

        def warn(size: int) -> None:
            text = f"features are computed {size} images at a time and may differ in their last digits"
            log_status("warning", f"out of memory: {text}")

        torch_pass = FeatureExtractor(backbone, self.preprocessing, devices.first, devices.data_parallel, warn)
        return Engines(self.options, self.setup.description, torch_pass)

    @property
    def extraction_batch(self) -> int:
        """Images of a batch in feature extraction and validation."""
        return EXTRACTION_BATCH[self.setup.devices.first.type]

    @property
    def options(self) -> FinetuneOptions:
        return self.setup.options

    @property
    def preprocessing(self) -> Preprocessing:
        return self.setup.description.preprocessing

    @cached_property
    def decoder(self) -> Decoder:
        """The decoder of all images, in all epochs."""
        return open_decoder(worker_count(self.options.workers))

    def close(self) -> None:
        """Stop the decoder processes."""
        self.decoder.close()

    @property
    def plain_view(self) -> View:
        """Images without augmentation."""
        return View(self.preprocessing, self.options.max_pixels)

    def view(self, epoch: int) -> View:
        """Training images as augmented in an epoch."""
        options = self.options
        return View(self.preprocessing, options.max_pixels, augment=options.augment, seed=options.seed, epoch=epoch)

    def load(self, sample: Sample, view: View) -> Pixels:
        """Decode an image that was readable before. Raises DataError if it no longer is: training cannot continue."""
        try:
            return self.decoder.load_sample(sample, view).pixels
        except ImageError as error:
            raise DataError(sample.path, error.message, NO_LONGER_READABLE) from error


def labels_of(samples: Sequence[Sample]) -> Tensor:
    """[N] int64"""
    return label_tensor(sample.label for sample in samples)


def labels_of_folds(dataset: Dataset, folds: int) -> tuple[Tensor, Tensor]:
    """The labels [N, K + 1] of a cross-validated data set, for training and for validation; see CrossValidatedHead.

    NO_LABEL where the layers of a fold must not see an image in training, and where they have seen it in validation.
    """
    held_out = one_hot(torch.tensor([dataset.folds[path] for path, _ in dataset.train]), folds + 1).bool()
    labels = labels_of(dataset.train)[:, None].expand(held_out.shape)
    return labels.masked_fill(held_out, NO_LABEL), labels.masked_fill(~held_out, NO_LABEL)


def weights_of(dataset: Dataset) -> Tensor | None:
    """The weights of the training images, float32 [N] with a mean of 1; None without weights."""
    if not dataset.weights:
        return None
    weights = torch.tensor([dataset.weights.get(sample.path, 1.0) for sample in dataset.train], dtype=torch.float64)
    return (weights / (weights.mean().item() or 1.0)).float()


class Stoppable:
    """Batches that stop between two of them when any rank has received a signal. label: of a progress bar, if any."""

    def __init__(self, batches: Batches, signals: Interruption, world: World, label: str | None = None) -> None:
        self.batches = batches
        self.signals = signals
        self.world = world
        self.label = label

    @property
    def steps_per_epoch(self) -> int:
        return self.batches.steps_per_epoch

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """As for the batches themselves. Raises Interrupted, at the same step on every rank."""
        batches = self.batches.epoch(epoch, first_step)
        steps = self.steps_per_epoch - first_step
        for batch in progress(batches, self.label, steps, "batch") if self.label else batches:
            received = self.world.all_reduce_max(self.signals.requested or 0)
            if received:  # on any rank; a signal that arrives during the reduction counts at the next step
                self.signals.requested = received
                self.signals.raise_if_requested()
            yield batch
