"""The interface of a model for predict and evaluate, independent of the backend. Loads no torch."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tlkit.data.decoders import Pixels
from tlkit.data.preprocessing import Preprocessing
from tlkit.errors import DataError

Logits = NDArray[np.float32]


class Predictor(Protocol):
    """A loaded model: images in, one score per class out."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of the pixels that `logits` takes."""

    @property
    def computing(self) -> str:
        """Device and precision as text. Two predictors of the same file with the same text give the same scores."""

    def expect(self, images: int) -> None:
        """Prepare for this number of images in total. Scores do not depend on how they are divided among processes."""

    def logits(self, pixels: Pixels) -> Logits:
        """uint8 [B, H, W, 3] -> float32 [B, C]"""


def require_finite(logits: Logits, path: str) -> None:
    """Raises DataError if the scores of an image [C] are infinite or NaN."""
    if not np.isfinite(logits).all():
        problem = "the model's scores are not finite; its weights may be damaged"
        raise DataError(path, problem, "If --precision is fp16 or bf16, try fp32.")
