"""Images to vectors: known ones from the store, the others through the backbone once, decoded while it computes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlkit.data.decoders import Decoder, Pixels
from tlkit.data.folder import Sample
from tlkit.data.image_file import ImageError, file_digest, open_regular
from tlkit.data.in_order import map_in_order
from tlkit.data.view import View
from tlkit.model.feature_store import Store, row_key
from tlkit.storage import storage_error
from tlkit.terminal import progress

EXTRACTION_BATCH = {"cpu": 16, "cuda": 64}
"""Images that pass a frozen backbone together, by kind of device: more leave a processor's cache, fewer leave a GPU
waiting for orders. Fixed: every run computes the same bits."""

IN_MEMORY_BYTES = 2 << 30
"""Vectors beyond this lie in a file that is mapped into memory: what is not used for a while takes no memory."""


@dataclass(frozen=True)
class Known:
    """An image whose vector the store has."""

    path: str
    key: bytes


@dataclass(frozen=True)
class Loaded:
    """An image whose vector must be computed."""

    key: bytes
    pixels: Pixels


@dataclass
class Extraction:
    """extract: uint8 [B, H, W, 3] -> features [B, ...]. computed, known: images so far, counted."""

    extract: Callable[[NDArray[np.uint8]], Tensor]
    store: Store
    decoder: Decoder
    workers: int
    batch_size: int
    computed: int = field(default=0, init=False)
    known: int = field(default=0, init=False)

    def vectors(self, samples: Sequence[Sample], view: View, label: str, bad: list[ImageError]) -> Tensor:
        """The features [N, ...] of the images that can be read, in order; the others are added to `bad`."""
        rows = Rows(len(samples))
        for places, keys, pixels in self.batches(samples, view, label, bad, rows):
            self.put_through(places, keys, pixels, rows)
        return rows.filled()

    def put_through(self, places: list[int], keys: list[bytes], pixels: NDArray[np.uint8], rows: Rows) -> None:
        """Compute a batch [B, H, W, 3], and keep it."""
        features = self.extract(pixels).cpu().numpy()
        self.computed += len(places)
        self.store.write(keys, features)
        rows.put(places, features)

    def batches(
        self, samples: Sequence[Sample], view: View, label: str, bad: list[ImageError], rows: Rows
    ) -> Iterator[tuple[list[int], list[bytes], NDArray[np.uint8]]]:
        """Places, keys and pixels [B, H, W, 3] of what is to be computed; what is known goes to `rows` at once."""
        places: list[int] = []
        waiting: list[tuple[bytes, Pixels]] = []
        loaded = map_in_order(
            lambda sample: self.load(sample.path, view), samples, workers=self.workers, ahead=2 * self.batch_size
        )
        for outcome in progress(loaded, label, len(samples)):
            vector = self.store.read(outcome.key) if isinstance(outcome, Known) else None
            if vector is not None:
                rows.put([rows.next_place()], vector[None])
                self.known += 1
                continue
            if isinstance(outcome, Known):  # what the store had is damaged or gone
                outcome = self.load(outcome.path, view, trusting=False)
            if isinstance(outcome, ImageError):
                bad.append(outcome)
                continue
            assert isinstance(outcome, Loaded)
            places.append(rows.next_place())
            waiting.append((outcome.key, outcome.pixels))
            if len(waiting) == self.batch_size:
                yield places, [key for key, _ in waiting], np.stack([pixels for _, pixels in waiting])
                places, waiting = [], []
        if waiting:
            yield places, [key for key, _ in waiting], np.stack([pixels for _, pixels in waiting])

    def load(self, path: str, view: View, trusting: bool = True) -> Known | Loaded | ImageError:
        """Look an image up by its content, and decode it if its vector is not known."""
        try:
            with open_regular(path) as file:
                digest = file_digest(path, file)
                key = row_key(digest, view.name)
                if trusting and key in self.store:
                    return Known(path, key)
                return Loaded(key, self.decoder.load_file(path, file, view, digest).pixels)
        except ImageError as error:
            return error


class Rows:
    """Vectors [N, ...] filled in any order; in memory, or in a mapped file without a name where they are many."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.count = 0
        self.content: NDArray[np.float32] | None = None

    def next_place(self) -> int:
        self.count += 1
        return self.count - 1

    def put(self, places: Sequence[int], vectors: NDArray[np.float32]) -> None:
        """vectors [B, ...]"""
        if self.content is None:
            self.content = allocate((self.most, *vectors.shape[1:]))
        self.content[places] = vectors

    def filled(self) -> Tensor:
        """All rows that were given a place."""
        return torch.empty(0) if self.content is None else torch.from_numpy(self.content[: self.count])


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
