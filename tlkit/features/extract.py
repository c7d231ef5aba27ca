"""Compute the features of images: from the cache if known, else by the backbone, with decoding in parallel.

Each rank computes a share. Rank 0 gathers all features through the process group, because ranks may not share a file
system.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlkit.data.decoders import Decoder, Pixels
from tlkit.data.digests import content_digest
from tlkit.data.folder import Sample
from tlkit.data.image_file import ImageError
from tlkit.data.ordered_map import map_in_order
from tlkit.data.scan import errors_of_all
from tlkit.data.view import View
from tlkit.devices.kinds import DEVICES
from tlkit.distributed.sharding import gather_in_order, shard_indices
from tlkit.distributed.world import World
from tlkit.features.segments import KEY_BYTES
from tlkit.features.store import Store, feature_key
from tlkit.files.storage import storage_error
from tlkit.terminal import progress

EXTRACTION_BATCH = {name: kind.extraction_batch for name, kind in DEVICES.items()}

IN_MEMORY_BYTES = 2 << 30
"""Larger feature arrays are memory-mapped from a file, so that unused parts need no memory."""


@dataclass
class Extraction:
    """extract: uint8 [B, H, W, 3] -> features [B, ...]. computed, known: number of this rank's images so far."""

    extract: Callable[[NDArray[np.uint8]], Tensor]
    store: Store
    decoder: Decoder
    workers: int
    batch_size: int
    world: World
    computed: int = field(default=0, init=False)
    known: int = field(default=0, init=False)

    def features(self, samples: Sequence[Sample], view: View, label: str, bad: list[ImageError]) -> Tensor:
        """On rank 0, the features [N, ...] of readable images in order; empty on other ranks.

        Unreadable images are added to `bad` on every rank.
        """
        mine = shard_indices(len(samples), self.batch_size, self.world)
        rows, errors = FeatureBuffer(len(mine)), list[tuple[int, ImageError]]()
        for places, keys, pixels in self.batches(samples, mine, view, label, errors, rows):
            self.extract_batch(places, keys, pixels, rows)
        bad += errors_of_all(errors, samples, self.world)
        features = gather_in_order(rows.numbers, rows.filled(), self.world, allocate)
        self.keep_of_others(rows, features)
        return features

    def keep_of_others(self, rows: FeatureBuffer, features: Tensor) -> None:
        """Write the features of other ranks to the cache of rank 0, unless they share its folder.

        rows: of this rank. features [N, ...]: of all ranks, on rank 0.
        """
        if self.world.size == 1:
            return
        self.store.commit()
        own = np.frombuffer(b"".join(rows.keys), np.uint8).reshape(-1, KEY_BYTES).copy()
        every = gather_in_order(rows.numbers, torch.from_numpy(own), self.world, partial(np.empty, dtype=np.uint8))
        self.store.find_segments()
        pairs = zip(torch.split(every, self.batch_size), torch.split(features, self.batch_size), strict=True)
        for keys, batch in pairs:
            strange = [place for place, key in enumerate(keys) if bytes(key.numpy()) not in self.store]
            if strange:
                self.store.write([bytes(key.numpy()) for key in keys[strange]], batch[strange].numpy())

    def counts(self) -> tuple[int, int]:
        """Number of computed and of cached images of all ranks."""
        computed, known = self.world.all_reduce_sum(torch.tensor([self.computed, self.known])).tolist()
        return computed, known

    def extract_batch(
        self, places: list[int], keys: list[bytes], pixels: NDArray[np.uint8], rows: FeatureBuffer
    ) -> None:
        """Compute a batch [B, H, W, 3] and write it to the cache."""
        features = self.extract(pixels).cpu().numpy()
        self.computed += len(places)
        self.store.write(keys, features)
        rows.put(places, features)

    def batches(
        self,
        samples: Sequence[Sample],
        numbers: Sequence[int],
        view: View,
        label: str,
        errors: list[tuple[int, ImageError]],
        rows: FeatureBuffer,
    ) -> Iterator[tuple[list[int], list[bytes], NDArray[np.uint8]]]:
        """Yield positions, keys and pixels [B, H, W, 3] of images to compute; cached features go to `rows` directly.

        numbers: indices of samples. errors: receives (index, error) of unreadable images.
        """
        places, keys, waiting = list[int](), list[bytes](), list[Pixels]()
        loaded = map_in_order(
            lambda number: self.load(samples[number], view), numbers, workers=self.workers, ahead=2 * self.batch_size
        )
        for number, outcome in zip(numbers, progress(loaded, label, len(numbers)), strict=True):
            row = None
            if not isinstance(outcome, ImageError) and outcome[1] is None:
                row = self.store.read(outcome[0])
                if row is None:  # the cached features were damaged or deleted
                    outcome = self.load(samples[number], view, trusting=False)
            if isinstance(outcome, ImageError):
                errors.append((number, outcome))
                continue
            key, pixels = outcome
            place = rows.next_place(number, key)
            if pixels is None:
                assert row is not None
                rows.put([place], row[None])
                self.known += 1
                continue
            places.append(place)
            keys.append(key)
            waiting.append(pixels)
            if len(waiting) == self.batch_size:
                yield places, keys, np.stack(waiting)
                places, keys, waiting = [], [], []
        if waiting:
            yield places, keys, np.stack(waiting)

    def load(self, sample: Sample, view: View, trusting: bool = True) -> tuple[bytes, Pixels | None] | ImageError:
        """The key of an image, and its pixels unless its features are cached. trusting: look into the cache."""
        try:
            with sample.open() as file:
                digest = content_digest(sample.path, file)
                key = feature_key(digest, view.cache_id)
                if trusting and key in self.store:
                    return key, None
                return key, self.decoder.load_file(sample.path, file, view, digest).pixels
        except ImageError as error:
            return error


class FeatureBuffer:
    """Features [N, ...] filled in any order, in memory or, if large, in an anonymous memory-mapped file.

    numbers, keys: of the image of each row.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.numbers: list[int] = []
        self.keys: list[bytes] = []
        self.content: NDArray[np.float32] | None = None

    def next_place(self, number: int, key: bytes) -> int:
        self.numbers.append(number)
        self.keys.append(key)
        return len(self.keys) - 1

    def put(self, places: Sequence[int], features: NDArray[np.float32]) -> None:
        """features [B, ...]"""
        if self.content is None:
            self.content = allocate((self.most, *features.shape[1:]))
        self.content[places] = features

    def filled(self) -> Tensor:
        """All rows that were added."""
        return torch.empty(0) if self.content is None else torch.from_numpy(self.content[: len(self.keys)])


def allocate(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Allocate an array for features. Raises OutputError or StorageError if the disk is full."""
    size = 4 * int(np.prod(shape))
    if size <= IN_MEMORY_BYTES:
        return np.empty(shape, np.float32)
    try:
        with tempfile.TemporaryFile(prefix="tlkit-features-") as file:  # the mapping keeps it alive
            os.posix_fallocate(file.fileno(), 0, size)  # else a full disk would kill by SIGBUS
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as error:
        raise storage_error(os.path.join(tempfile.gettempdir(), "tlkit-features"), error, lambda: size) from error
