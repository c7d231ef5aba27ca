"""The images of a run: found readable, decoded, and divided into the batches that the training loop eats."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tlkit.commands.extraction import EXTRACTION_BATCH, Extraction, View
from tlkit.data.augmentation import Augmentation
from tlkit.data.batches import ImageBatches, VectorBatches, map_in_order, normalise
from tlkit.data.decode import ImageError, check_image
from tlkit.data.folder import Dataset, Sample
from tlkit.data.preprocessing import Pixels, Preprocessing
from tlkit.errors import DataError, printable
from tlkit.interruption import Interruption
from tlkit.model.classifier import Classifier
from tlkit.model.feature_store import NoStore, Store, open_store
from tlkit.model.features import FeatureExtractor, feature_statistics
from tlkit.model.files import ModelDescription
from tlkit.options import FinetuneOptions, worker_count
from tlkit.run_folder import RunFolder
from tlkit.storage import write_atomically
from tlkit.terminal import count, progress, say
from tlkit.training.loop import Batches


@dataclass(frozen=True)
class PreparedBatches:
    """What the loop trains: module is the head over vectors, or the whole classifier over images."""

    dataset: Dataset
    module: nn.Module
    train: Batches
    val: Batches


def check_images(options: FinetuneOptions, dataset: Dataset) -> Dataset:
    """Look at the header and the end of every file before any long work; returns the readable images.

    Raises DataError naming all bad files, unless they may be skipped.
    """
    samples = dataset.train + dataset.val
    outcomes = map_in_order(find_problem, (s.path for s in samples), workers=worker_count(options.workers), ahead=256)
    bad = [problem for problem in progress(outcomes, "checking", len(samples)) if problem is not None]
    return without_bad(options, dataset, bad)


def find_problem(path: str) -> ImageError | None:
    """Why an image cannot be used, or None."""
    try:
        check_image(path)
    except ImageError as error:
        return error
    return None


def without_bad(options: FinetuneOptions, dataset: Dataset, bad: Sequence[ImageError]) -> Dataset:
    """The data without its bad images. Raises DataError if they may not be skipped, or if too little is left."""
    if not bad:
        return dataset
    found = f"{count(len(bad), 'image')} of {len(dataset.train) + len(dataset.val)} cannot be read"
    listing = "\n".join(f"  {printable(error.path)}: {error.message}" for error in bad)
    if not options.skip_bad:
        raise DataError(options.data, found, f"{listing}\nMend or remove them, or go on without them by --skip-bad.")
    say("warning", f"{found} and {'is' if len(bad) == 1 else 'are'} left out\n{listing}")
    names = {error.path for error in bad}
    kept = dataclasses.replace(
        dataset,
        train=[s for s in dataset.train if s.path not in names],
        val=[s for s in dataset.val if s.path not in names],
        skipped=(*dataset.skipped, *bad),
    )
    lost = set(range(len(dataset.classes))) - {s.label for s in kept.train}
    if lost or not kept.val:
        empty = ", ".join(dataset.classes[label] for label in sorted(lost)) or "the validation images"
        raise DataError(options.data, f"nothing readable is left of {empty}", listing)
    return kept


def read_skipped(run: RunFolder) -> tuple[ImageError, ...]:
    """The images that a run left out so far."""
    if not os.path.exists(run.skipped_file):
        return ()
    with open(run.skipped_file, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return tuple(ImageError(row["path"], row["code"], row["message"]) for row in rows)


def write_skipped(run: RunFolder, skipped: Sequence[ImageError]) -> None:
    """List the images that a run leaves out."""
    rows = [json.dumps({"path": e.path, "code": e.code, "message": e.message}) + "\n" for e in skipped]
    write_atomically(run.skipped_file, lambda file: file.write("".join(rows).encode()))


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

    def batches(self) -> PreparedBatches:
        """What the loop trains, and on what. Raises DataError for images that cannot be read."""
        return self.batches_of_images() if self.options.feeds_images() else self.batches_of_vectors()

    def batches_of_vectors(self) -> PreparedBatches:
        """Run the backbone once over every image, or view of it; the head then trains on the vectors."""
        options, bad = self.options, list[ImageError]()
        with closing(open_store(self.space(), options.cache_bytes(), partial(say, "warning"))) as store:
            extraction = self.extraction(store)
            if self.fresh or options.augment == "none":
                plain = extraction.vectors(self.dataset.train, self.plain_view(), "features", bad)
                if self.fresh:
                    self.standardise(feature_statistics(torch.split(plain, 4096)))
            val = extraction.vectors(self.dataset.val, self.plain_view(), "validation", bad)
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

    def augmented_vectors(self, extraction: Extraction, dataset: Dataset) -> list[Tensor]:
        """The vectors [N, ...] of each augmented view of the training images."""
        count = self.options.view_count()
        bad: list[ImageError] = []
        views = [
            extraction.vectors(dataset.train, self.augmented_view(number), f"view {number + 1}/{count}", bad)
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
            plain = self.extraction(NoStore()).vectors(dataset.train, self.plain_view(), "features", bad)
            # Decoded once, so that a damaged one is found before any epoch.
            deque(readable_batches(dataset.val, self.preprocessing, workers, "checking", bad), maxlen=0)
            dataset = without_bad(options, dataset, bad)
            self.standardise(feature_statistics(torch.split(plain, 4096)))
        augmentation = self.augmentation()

        def load_training(index: int, epoch: int) -> Pixels:
            path = dataset.train[index].path
            if augmentation is None:
                return or_data_error(self.preprocessing.load, path)
            return or_data_error(lambda p: augmentation.load(p, epoch), path)

        def load_validation(index: int, epoch: int) -> Pixels:
            return or_data_error(self.preprocessing.load, dataset.val[index].path)

        train_labels, val_labels = labels_of(dataset.train), labels_of(dataset.val)
        train = ImageBatches(load_training, train_labels, self.preprocessing, options.batch_size, options.seed, workers)
        val = ImageBatches(load_validation, val_labels, self.preprocessing, EXTRACTION_BATCH, None, workers)
        return PreparedBatches(
            dataset,
            self.classifier,
            Stoppable(train, self.signals, "training"),
            Stoppable(val, self.signals, "validation"),
        )

    def extraction(self, store: Store) -> Extraction:
        """The pass of this run's backbone."""
        extractor = FeatureExtractor(self.classifier.backbone, self.preprocessing, self.device)
        return Extraction(extractor, store, worker_count(self.options.workers))

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

    def augmentation(self) -> Augmentation | None:
        """How training images are changed in each epoch, if they are."""
        options = self.options
        return None if options.augment == "none" else Augmentation(options.augment, self.preprocessing, options.seed)

    def plain_view(self) -> View:
        """Images as they are."""
        return View("", lambda path, file, digest: self.preprocessing.load_file(path, file))

    def augmented_view(self, number: int) -> View:
        """Images as they are seen in epoch `number`."""
        augmentation = self.augmentation()
        assert augmentation is not None
        name = f"{augmentation.kind} {augmentation.seed} {number}"
        return View(name, lambda path, file, digest: augmentation.load_file(path, file, digest, number))

    def standardise(self, statistics: tuple[Tensor, Tensor] | None) -> None:
        """Give the head the mean and deviation of the training features."""
        assert statistics is not None, "every class has a readable image"
        self.classifier.head.set_standardisation(*statistics)


def readable_batches(
    samples: list[Sample],
    preprocessing: Preprocessing,
    workers: int,
    label: str,
    bad: list[ImageError],
    batch_size: int = EXTRACTION_BATCH,
) -> Iterator[Tensor]:
    """Normalised images [B, 3, H, W] in order. Unreadable ones are added to `bad`, and do not shift what follows
    in any other way than if they had not been there."""

    def load(sample: Sample) -> Pixels | ImageError:
        try:
            return preprocessing.load(sample.path)
        except ImageError as error:
            return error

    def readable() -> Iterator[Pixels]:
        loaded = map_in_order(load, samples, workers=workers, ahead=2 * batch_size)
        for outcome in progress(loaded, label, len(samples)):
            if isinstance(outcome, ImageError):
                bad.append(outcome)
            else:
                yield outcome

    pixels = readable()
    while batch := list(islice(pixels, batch_size)):
        yield normalise(torch.from_numpy(np.stack(batch)), preprocessing)


def or_data_error(load: Callable[[str], Pixels], path: str) -> Pixels:
    """Load an image that was readable before; if it no longer is, training cannot go on."""
    try:
        return load(path)
    except ImageError as error:
        raise DataError(path, error.message, "It was readable when the run began.") from error


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
