"""tlkit predict: paths in, one record out for each, in order, as soon as it can be given."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from tlkit.commands.labellers import open_labeller
from tlkit.data.decode import ImageError
from tlkit.data.listing import find_images
from tlkit.data.preprocessing import Pixels, Preprocessing
from tlkit.errors import DONE, SOME_INPUTS_FAILED, UsageError, printable
from tlkit.model.labeller import Labeller, Logits
from tlkit.options import PredictOptions, worker_count
from tlkit.output.predictions import WRITERS, Prediction
from tlkit.terminal import complain, emit

IDLE_SECONDS = 0.05
"""How long a batch waits for more images before it is answered as it is."""


@dataclass(frozen=True)
class Loaded:
    """An input on its way: its pixels uint8 [H, W, 3], or why there are none."""

    index: int
    path: str
    pixels: Pixels | ImageError


def predict(options: PredictOptions) -> int:
    """Write a record for each path. Returns the exit status: 3 if some inputs failed."""
    if not options.paths and sys.stdin.isatty():
        raise UsageError("PATH", "is missing; name images or folders, or pipe a list of paths in")
    paths = read_paths(options.paths or ["-"], sys.stdin.buffer, options.null)
    model = open_labeller(options.model, options.weights, options.device, options.precision, options.trust_pickle)
    ranked = options.top_k is not None
    writer = WRITERS[options.format]
    failures = 0
    emit(writer.header(ranked))
    for batch in load_batches(paths, model.preprocessing, options.batch_size, worker_count(options.workers)):
        predictions = label_batch(model, batch, options.top_k or 1)
        for prediction in predictions:
            if prediction.error:
                failures += 1
                if options.format != "jsonl":
                    complain(f"tlkit predict: {printable(prediction.path)}: {prediction.error[1]}")
        emit(b"".join(writer.record(prediction, ranked) for prediction in predictions))
    return SOME_INPUTS_FAILED if failures else DONE


def read_paths(arguments: list[str], stdin: BinaryIO, null: bool) -> Iterator[str]:
    """The inputs in order: files as named, the images of folders, and for - the list on standard input."""
    for argument in arguments:
        if argument == "-":
            yield from read_list(stdin, b"\0" if null else b"\n")
        elif os.path.isdir(argument):
            yield from find_images(argument)
        else:
            yield argument


def read_list(stream: BinaryIO, end: bytes) -> Iterator[str]:
    """Names that each end with `end` (the last one may lack it), given as soon as they are whole."""
    rest = b""
    while chunk := os.read(stream.fileno(), 1 << 16):
        *names, rest = (rest + chunk).split(end)
        yield from map(os.fsdecode, names)
    if rest:
        yield os.fsdecode(rest)


def load_batches(paths: Iterator[str], preprocessing: Preprocessing, size: int, workers: int) -> Iterator[list[Loaded]]:
    """Read images ahead in threads; give them in order, `size` together or fewer when no more come soon."""

    def load(index: int, path: str) -> Loaded:
        try:
            return Loaded(index, path, preprocessing.load(path))
        except ImageError as error:
            return Loaded(index, path, error)

    coming: queue.Queue[Future[Loaded] | BaseException | None] = queue.Queue(maxsize=2 * size)
    stopping = threading.Event()

    def submit_all() -> None:
        try:
            for index, path in enumerate(paths):
                put(coming, pool.submit(load, index, path), stopping)
                if stopping.is_set():
                    return
            put(coming, None, stopping)
        except BaseException as error:  # shown by the thread that consumes
            put(coming, error, stopping)

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        threading.Thread(target=submit_all, daemon=True).start()
        try:
            yield from gather(coming, size)
        finally:
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)


def put(
    coming: queue.Queue[Future[Loaded] | BaseException | None],
    item: Future[Loaded] | BaseException | None,
    stopping: threading.Event,
) -> None:
    """Put an item, waiting while the queue is full, unless nobody takes any more."""
    while not stopping.is_set():
        with contextlib.suppress(queue.Full):
            coming.put(item, timeout=0.2)
            return


def gather(coming: queue.Queue[Future[Loaded] | BaseException | None], size: int) -> Iterator[list[Loaded]]:
    """Batches of `size`; a smaller one when nothing has come for IDLE_SECONDS, and at the end."""
    batch: list[Loaded] = []
    while True:
        try:
            item = coming.get(timeout=IDLE_SECONDS if batch else None)
        except queue.Empty:
            yield batch
            batch = []
            continue
        if isinstance(item, BaseException):
            raise item
        if item is None:
            if batch:
                yield batch
            return
        if batch and not wait([item], IDLE_SECONDS).done:  # what is ready does not wait for a slow image behind it
            yield batch
            batch = []
        batch.append(item.result())
        if len(batch) == size:
            yield batch
            batch = []


def label_batch(model: Labeller, batch: list[Loaded], top_k: int) -> list[Prediction]:
    """Predictions for a batch in its order; images that could not be read become failures."""
    readable = [item.pixels for item in batch if not isinstance(item.pixels, ImageError)]
    tops: Iterator[tuple[tuple[str, float], ...]] = iter(())
    if readable:
        logits = model.logits(np.stack(readable))  # [B, C]
        tops = iter([best_labels(row, model.classes, top_k) for row in logits])
    return [
        Prediction(item.index, item.path, error=(item.pixels.code, item.pixels.message))
        if isinstance(item.pixels, ImageError)
        else Prediction(item.index, item.path, top=next(tops))
        for item in batch
    ]


def best_labels(logits: Logits, classes: tuple[str, ...], top_k: int) -> tuple[tuple[str, float], ...]:
    """The top_k likeliest classes of one image, [C] -> (label, probability), best first; of equals the first class."""
    exponents = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = exponents / exponents.sum()
    best = np.argsort(-logits, kind="stable")[:top_k] if top_k > 1 else [int(logits.argmax())]
    return tuple((classes[label], float(probabilities[label])) for label in best)
