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
from tlkit.data.decoders import Decoder, Picture, open_decoder
from tlkit.data.image_file import ImageError
from tlkit.data.listing import find_images
from tlkit.data.view import View
from tlkit.errors import DONE, SOME_INPUTS_FAILED, UsageError, printable
from tlkit.model.labeller import Labeller, Logits
from tlkit.options import PredictOptions, worker_count
from tlkit.output.predictions import WRITERS, Prediction
from tlkit.terminal import complain, emit

IDLE_SECONDS = 0.05
"""How long a batch waits for more images before it is answered as it is."""


@dataclass(frozen=True)
class Loaded:
    """An input on its way: its picture, or why there is none."""

    index: int
    path: str
    picture: Picture | ImageError


def predict(options: PredictOptions) -> int:
    """Write a record for each path. Returns the exit status: 3 if some inputs failed."""
    if not options.paths and sys.stdin.isatty():
        raise UsageError("PATH", "is missing; name images or folders, or pipe a list of paths in")
    paths = read_paths(options.paths or ["-"], sys.stdin.buffer, options.null)
    workers = worker_count(options.workers)
    decoder = open_decoder(workers)
    decoder.start()  # while the model is loaded
    model = open_labeller(options.model, options.weights, options.device, options.precision)
    ranked = options.top_k is not None
    writer = WRITERS[options.format]
    failures = 0
    emit(writer.header(ranked))
    view = View(model.preprocessing, options.max_pixels, truncated=options.allow_truncated)
    for batch in load_batches(paths, decoder, view, options.batch_size, workers):
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


def load_batches(paths: Iterator[str], decoder: Decoder, view: View, size: int, workers: int) -> Iterator[list[Loaded]]:
    """Read images ahead in threads; give them in order, `size` together or fewer when no more come soon."""

    def load(index: int, path: str) -> Loaded:
        try:
            return Loaded(index, path, decoder.load(path, view))
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
    readable = [item.picture.pixels for item in batch if isinstance(item.picture, Picture)]
    tops: Iterator[tuple[tuple[str, float], ...]] = iter(())
    if readable:
        logits = model.logits(np.stack(readable))  # [B, C]
        tops = iter([best_labels(row, model.classes, top_k) for row in logits])
    return [prediction_for(item, tops) for item in batch]


def prediction_for(item: Loaded, tops: Iterator[tuple[tuple[str, float], ...]]) -> Prediction:
    """The prediction for an input; the next of tops is for the next picture."""
    if isinstance(item.picture, ImageError):
        return Prediction(item.index, item.path, error=(item.picture.code, item.picture.message))
    frames = item.picture.frames if item.picture.frames > 1 else None
    return Prediction(item.index, item.path, next(tops), frames=frames, degraded=item.picture.degraded)


def best_labels(logits: Logits, classes: tuple[str, ...], top_k: int) -> tuple[tuple[str, float], ...]:
    """The top_k likeliest classes of one image, [C] -> (label, probability), best first; of equals the first class."""
    exponents = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = exponents / exponents.sum()
    best = np.argsort(-logits, kind="stable")[:top_k] if top_k > 1 else [int(logits.argmax())]
    return tuple((classes[label], float(probabilities[label])) for label in best)
