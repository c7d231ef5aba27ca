"""From decoded pixels to predictions: probabilities and the most likely classes. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tlkit.data.decoders import Decoder, Picture
from tlkit.data.image_file import ImageError
from tlkit.data.view import View
from tlkit.errors import DataError
from tlkit.inference.predictor import Logits, Predictor, require_finite
from tlkit.training.objective import probabilities


@dataclass(frozen=True)
class Prediction:
    """The prediction for one input, or the reason why there is none.

    index: position among the inputs. top: (label, probability), most likely first; empty for a failure.
    error: (code, message) of a failure, else None. frames: of an animation, of which the first was predicted.
    degraded: a part of the image could not be read.
    """

    index: int
    path: str
    top: tuple[tuple[str, float], ...] = ()
    error: tuple[str, str] | None = None
    frames: int = 1
    degraded: bool = False


@dataclass(frozen=True)
class Loaded:
    """An input with its decoded picture, or the reason why it has none."""

    index: int
    path: str
    picture: Picture | ImageError


def loader(decoder: Decoder, view: View) -> Callable[[tuple[int, str]], Loaded]:
    """A function that decodes one input, given by its index and path."""

    def load(numbered: tuple[int, str]) -> Loaded:
        index, path = numbered
        try:
            return Loaded(index, path, decoder.warn_if_dark(path, decoder.load(path, view)))
        except ImageError as error:
            return Loaded(index, path, error)

    return load


def predict_batch(model: Predictor, batch: list[Loaded], top_k: int) -> tuple[list[Prediction], DataError | None]:
    """The predictions of a batch, in its order. Inputs without a picture become failures.

    They end before the first image with NaN or infinite logits, whose error is returned beside them.
    """
    pixels = [item.picture.pixels for item in batch if isinstance(item.picture, Picture)]
    logits: Iterator[Logits] = iter(model.logits(np.stack(pixels)) if pixels else ())  # [B, C]
    predictions: list[Prediction] = []
    for item in batch:
        picture = item.picture
        if isinstance(picture, ImageError):
            predictions.append(Prediction(item.index, item.path, error=(picture.code, picture.message)))
            continue
        scores = next(logits)
        try:
            require_finite(scores, item.path)
        except DataError as problem:
            return predictions, problem
        top = best_labels(scores, model.classes, top_k)
        predictions.append(Prediction(item.index, item.path, top, frames=picture.frames, degraded=picture.degraded))
    return predictions, None


def best_labels(logits: Logits, classes: tuple[str, ...], top_k: int) -> tuple[tuple[str, float], ...]:
    """Logits [C] -> the top_k pairs (label, probability), most likely first; of equal ones the first class first."""
    shares = probabilities(logits)
    best = np.argsort(-logits, kind="stable")[:top_k] if top_k > 1 else [int(logits.argmax())]
    return tuple((classes[label], float(shares[label])) for label in best)
