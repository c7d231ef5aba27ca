"""tlkit predict: paths in, one record out for each, in order, as soon as it can be given."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np

from tlkit.data.decoders import Decoder, Picture, open_decoder, worker_count
from tlkit.data.image_file import ImageError
from tlkit.data.view import View
from tlkit.distributed.env import require_single_process
from tlkit.errors import DONE, SOME_INPUTS_FAILED, DataError, OutputError, UsageError, escape_name
from tlkit.files.atomic import OutputFile, replaced_when_whole
from tlkit.inference.inputs import LIST, read_inputs
from tlkit.inference.open import open_predictor
from tlkit.inference.predictor import Logits, Predictor, require_finite
from tlkit.inference.stream import stream
from tlkit.inference.writers import WRITERS, Prediction
from tlkit.options import STANDARD_OUTPUT, PredictOptions
from tlkit.terminal import print_error, write_stdout
from tlkit.training.objective import probabilities


@dataclass(frozen=True)
class Loaded:
    """An input on its way: its picture, or why there is none."""

    index: int
    path: str
    picture: Picture | ImageError


def predict(options: PredictOptions) -> int:
    """Write a record for each input. Returns the exit status: 3 if some inputs failed."""
    require_single_process("predict")
    if not options.paths and sys.stdin.isatty():
        problem = "is missing; name images or folders, or pipe a list of paths in"
        raise UsageError("PATH", problem, "Try 'tlkit predict --help'.")
    ranked = options.top_k is not None
    writer = WRITERS[options.format]
    outcomes = FailureReport(report_failures=options.format != "jsonl")
    workers = worker_count(options.workers)
    with destination(options.output) as write, closing(open_decoder(workers)) as decoder:
        decoder.start()  # while the model is loaded
        model = open_predictor(
            options.model,
            options.weights,
            options.device_spec(),
            options.precision,
            options.trust_pickle,
            options.engine,
        )
        view = View(model.preprocessing, options.max_pixels, truncated=options.allow_truncated)
        inputs = enumerate(read_inputs(options.paths or [LIST], options.null, options.crlf))
        rest = islice(inputs, options.resume_from, None)
        if not options.resume_from:  # what is gone on with has its header
            write(writer.header(ranked))
        for batch in stream(loader(decoder, view), rest, workers, options.batch_size):
            predictions, broken = predict_batch(model, batch, options.top_k or 1)
            outcomes.add(predictions)
            write(b"".join(writer.record(prediction, ranked) for prediction in predictions))
            if broken:
                raise broken
    outcomes.conclude(options.summary)
    return SOME_INPUTS_FAILED if outcomes.errors else DONE


@contextlib.contextmanager
def destination(path: str | None) -> Iterator[Callable[[bytes], object]]:
    """Where records go: to standard output at once, or into a file that takes its place when all are written.

    Raises OutputError or StorageError.
    """
    if path in STANDARD_OUTPUT:
        yield write_stdout
        return
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):
        problem = "is a folder, pipe or device; --output replaces a file"
        raise OutputError(path or "--output", problem, "Use > to write to a pipe or device.")
    with replaced_when_whole(path) as aside, io.BufferedWriter(OutputFile(aside, path)) as file:
        yield file.write


def loader(decoder: Decoder, view: View) -> Callable[[tuple[int, str]], Loaded]:
    """How an input, its place and path, is loaded: the one line of predict that opens images."""

    def load(numbered: tuple[int, str]) -> Loaded:
        index, path = numbered
        try:
            return Loaded(index, path, decoder.load(path, view))
        except ImageError as error:
            return Loaded(index, path, error)

    return load


def predict_batch(model: Predictor, batch: list[Loaded], top_k: int) -> tuple[list[Prediction], DataError | None]:
    """Predictions for a batch in its order, up to the first image for which the model gives no numbers, and that error.

    Images that could not be read become failures.
    """
    pixels = [item.picture.pixels for item in batch if isinstance(item.picture, Picture)]
    logits = iter(model.logits(np.stack(pixels)) if pixels else ())  # [B, C]
    predictions: list[Prediction] = []
    for item in batch:
        if isinstance(item.picture, ImageError):
            error = item.picture.code, item.picture.message
            predictions.append(Prediction(item.index, item.path, error=error))
            continue
        try:
            predictions.append(predict_image(item, item.picture, next(logits), model.classes, top_k))
        except DataError as problem:
            return predictions, problem
    return predictions, None


def predict_image(item: Loaded, picture: Picture, logits: Logits, classes: tuple[str, ...], top_k: int) -> Prediction:
    """The prediction for one image, of logits [C]. Raises DataError if they are infinite or no numbers."""
    require_finite(logits, item.path)
    top = best_labels(logits, classes, top_k)
    return Prediction(item.index, item.path, top, frames=picture.frames, degraded=picture.degraded)


def best_labels(logits: Logits, classes: tuple[str, ...], top_k: int) -> tuple[tuple[str, float], ...]:
    """The top_k likeliest classes of one image, [C] -> (label, probability), best first; of equals the first class."""
    shares = probabilities(logits)
    best = np.argsort(-logits, kind="stable")[:top_k] if top_k > 1 else [int(logits.argmax())]
    return tuple((classes[label], float(shares[label])) for label in best)


MAX_REPORTED = 10
"""Failures with one code that are told; later ones are counted."""


class FailureReport:
    """The count so far. telling: whether failures are told as they come, because records leave them out."""

    def __init__(self, report_failures: bool) -> None:
        self.report_failures = report_failures
        self.inputs = 0
        self.errors: Counter[str] = Counter()

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Count the outcomes of some inputs, and tell the failures."""
        for prediction in predictions:
            self.inputs += 1
            if prediction.error:
                code, message = prediction.error
                self.errors[code] += 1
                if self.report_failures and self.errors[code] <= MAX_REPORTED + 1:
                    self.tell(prediction.path, code, message)

    def tell(self, path: str, code: str, message: str) -> None:
        """One failure; of those after the first few, that they are no longer told."""
        if self.errors[code] <= MAX_REPORTED:
            print_error(f"tlkit predict: {escape_name(path)}: {escape_name(message)}")
        else:
            print_error(f"tlkit predict: {code}: more of these are only counted; --format jsonl names all")

    def conclude(self, summary: bool) -> None:
        """Tell the counts: as JSON if asked for, else in words if there were failures."""
        failed = self.errors.total()
        if summary:
            counts = {"inputs": self.inputs, "ok": self.inputs - failed, "errors": dict(sorted(self.errors.items()))}
            print_error(json.dumps({"event": "summary", **counts}, separators=(",", ":")))
        elif failed:
            kinds = ", ".join(f"{code} {number:,}" for code, number in self.errors.most_common())
            print_error(f"tlkit predict: inputs: {failed:,} of {self.inputs:,} failed: {kinds}")
