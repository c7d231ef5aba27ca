"""From decoded pixels to predictions: probabilities and the most likely classes. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tlkit.data.decoders import Decoder, Picture, Pixels
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
            return Loaded(index, path, decoder.load(path, view))
        except ImageError as error:
            return Loaded(index, path, error)

    return load


def predict_pixels(model: Predictor, images: Sequence[Pixels], top_k: int) -> list[tuple[tuple[str, float], ...]]:
    """The top_k labels of images that are in memory already, each uint8 [H, W, 3] as model.preprocessing makes them.

    Raises DataError if the model gives NaN or infinite logits.
    """
    logits = model.logits(np.stack(images))
    for row in logits:
        require_finite(row, "image")
    return [best_labels(row, model.classes, top_k) for row in logits]


def predict_batch(model: Predictor, batch: list[Loaded], top_k: int) -> tuple[list[Prediction], DataError | None]:
    """The predictions of a batch, in its order. Inputs without a picture become failures.

    They end before the first image with NaN or infinite logits, whose error is returned beside them.
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
    """The prediction of one image, from its logits [C]. Raises DataError if they are NaN or infinite."""
    require_finite(logits, item.path)
    top = best_labels(logits, classes, top_k)
    return Prediction(item.index, item.path, top, frames=picture.frames, degraded=picture.degraded)


def best_labels(logits: Logits, classes: tuple[str, ...], top_k: int) -> tuple[tuple[str, float], ...]:
    """Logits [C] -> the top_k pairs (label, probability), most likely first; of equal ones the first class first."""
    shares = probabilities(logits)
    best = np.argsort(-logits, kind="stable")[:top_k] if top_k > 1 else [int(logits.argmax())]
    return tuple((classes[label], float(shares[label])) for label in best)
