"""Images to vectors: known ones from the store, the others through the backbone once, decoded while it computes.

Of several ranks each takes a share, and the first gets all vectors: from the others by the process group, as they may
have file systems of their own.
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
from tlkit.data.folder import Sample
from tlkit.data.image_file import ImageError, file_digest
from tlkit.data.ordered_map import map_in_order
from tlkit.data.scan import errors_of_all
from tlkit.data.view import View
from tlkit.devices.kinds import DEVICES
from tlkit.distributed.gather import gather_in_order, shard_indices
from tlkit.distributed.world import World
from tlkit.features.segments import KEY_BYTES
from tlkit.features.store import Store, feature_key
from tlkit.files.atomic import storage_error
from tlkit.terminal import progress

EXTRACTION_BATCH = {name: kind.extraction_batch for name, kind in DEVICES.items()}


IN_MEMORY_BYTES = 2 << 30
"""Vectors beyond this lie in a file that is mapped into memory: what is not used for a while takes no memory."""


@dataclass(frozen=True)
class CacheHit:
    """An image whose vector the store has."""

    path: str
    key: bytes


@dataclass(frozen=True)
class CacheMiss:
    """An image whose vector must be computed."""

    key: bytes
    pixels: Pixels


@dataclass
class Extraction:
    """extract: uint8 [B, H, W, 3] -> features [B, ...]. computed, known: this rank's images so far, counted."""

    extract: Callable[[NDArray[np.uint8]], Tensor]
    store: Store
    decoder: Decoder
    workers: int
    batch_size: int
    world: World
    computed: int = field(default=0, init=False)
    known: int = field(default=0, init=False)

    def vectors(self, samples: Sequence[Sample], view: View, label: str, bad: list[ImageError]) -> Tensor:
        """At the first rank, the features [N, ...] of the images that can be read, in order; nothing at the others.

        What cannot be read is added to `bad`, at every rank.
        """
        mine = shard_indices(len(samples), self.batch_size, self.world)
        rows, errors = FeatureBuffer(len(mine)), list[tuple[int, ImageError]]()
        for places, keys, pixels in self.batches(samples, mine, view, label, errors, rows):
            self.extract_batch(places, keys, pixels, rows)
        bad += errors_of_all(errors, samples, self.world)
        vectors = gather_in_order(rows.numbers, rows.filled(), self.world, allocate)
        self.keep_of_others(rows, vectors)
        return vectors

    def keep_of_others(self, rows: FeatureBuffer, vectors: Tensor) -> None:
        """Put into the first rank's store what others have computed, unless theirs is the same.

        rows: of this rank; vectors [N, ...]: at the first rank, those of all.
        """
        if self.world.size == 1:
            return
        self.store.commit()
        own = np.frombuffer(b"".join(rows.keys), np.uint8).reshape(-1, KEY_BYTES).copy()
        every = gather_in_order(rows.numbers, torch.from_numpy(own), self.world, partial(np.empty, dtype=np.uint8))
        self.store.find_segments()
        pairs = zip(torch.split(every, self.batch_size), torch.split(vectors, self.batch_size), strict=True)
        for keys, batch in pairs:
            strange = [place for place, key in enumerate(keys) if bytes(key.numpy()) not in self.store]
            if strange:
                self.store.write([bytes(key.numpy()) for key in keys[strange]], batch[strange].numpy())

    def counts(self) -> tuple[int, int]:
        """Images computed and known, of all ranks."""
        computed, known = self.world.all_reduce_sum(torch.tensor([self.computed, self.known])).tolist()
        return computed, known

    def extract_batch(
        self, places: list[int], keys: list[bytes], pixels: NDArray[np.uint8], rows: FeatureBuffer
    ) -> None:
        """Compute a batch [B, H, W, 3], and keep it."""
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
        """Places, keys and pixels [B, H, W, 3] of what is to be computed; what is known goes to `rows` at once.

        numbers: which of the samples. errors: gets the number of each that cannot be read, and why.
        """
        places: list[int] = []
        waiting: list[tuple[bytes, Pixels]] = []
        loaded = map_in_order(
            lambda number: self.load(samples[number], view),
            numbers,
            workers=self.workers,
            ahead=2 * self.batch_size,
        )
        for number, outcome in zip(numbers, progress(loaded, label, len(numbers)), strict=True):
            vector = self.store.read(outcome.key) if isinstance(outcome, CacheHit) else None
            if isinstance(outcome, CacheHit) and vector is not None:
                rows.put([rows.next_place(number, outcome.key)], vector[None])
                self.known += 1
                continue
            if isinstance(outcome, CacheHit):  # what the store had is damaged or gone
                outcome = self.load(samples[number], view, trusting=False)
            if isinstance(outcome, ImageError):
                errors.append((number, outcome))
                continue
            assert isinstance(outcome, CacheMiss)
            places.append(rows.next_place(number, outcome.key))
            waiting.append((outcome.key, outcome.pixels))
            if len(waiting) == self.batch_size:
                yield places, [key for key, _ in waiting], np.stack([pixels for _, pixels in waiting])
                places, waiting = [], []
        if waiting:
            yield places, [key for key, _ in waiting], np.stack([pixels for _, pixels in waiting])

    def load(self, sample: Sample, view: View, trusting: bool = True) -> CacheHit | CacheMiss | ImageError:
        """Look an image up by its content, and decode it if its vector is not known."""
        try:
            with sample.open() as file:
                digest = file_digest(sample.path, file)
                key = feature_key(digest, view.cache_id)
                if trusting and key in self.store:
                    return CacheHit(sample.path, key)
                return CacheMiss(key, self.decoder.load_file(sample.path, file, view, digest).pixels)
        except ImageError as error:
            return error


class FeatureBuffer:
    """Vectors [N, ...] filled in any order; in memory, or in a mapped file without a name where they are many.

    numbers, keys: of the image that each is of.
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

    def put(self, places: Sequence[int], vectors: NDArray[np.float32]) -> None:
        """vectors [B, ...]"""
        if self.content is None:
            self.content = allocate((self.most, *vectors.shape[1:]))
        self.content[places] = vectors

    def filled(self) -> Tensor:
        """All rows that were given a place."""
        return torch.empty(0) if self.content is None else torch.from_numpy(self.content[: len(self.keys)])


def allocate(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Room for vectors. Raises OutputError or StorageError if the disk has none."""
    size = 4 * int(np.prod(shape))
    if size <= IN_MEMORY_BYTES:
        return np.empty(shape, np.float32)
    try:
        with tempfile.TemporaryFile(prefix="tlkit-vectors-") as file:  # the mapping keeps it alive
            os.posix_fallocate(file.fileno(), 0, size)  # a mapped file that finds no room later ends it by SIGBUS
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as error:
        raise storage_error(os.path.join(tempfile.gettempdir(), "tlkit-vectors"), error, lambda: size) from error
