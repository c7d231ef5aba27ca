"""What predict and evaluate need of a model, whatever runs it. Loads no torch."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tlkit.data.decoders import Pixels
from tlkit.data.preprocessing import Preprocessing
from tlkit.errors import DataError

Logits = NDArray[np.float32]


class Predictor(Protocol):
    """A model that is ready: images in, a score for each class out."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the pixels that logits takes."""

    @property
    def computing(self) -> str:
        """On what, and in what, for people: two of the same file that have it in common give the same scores."""

    def expect(self, images: int) -> None:
        """Get ready for so many images. What each gets does not depend on how they are then divided into processes."""

    def logits(self, pixels: Pixels) -> Logits:
        """uint8 [B, H, W, 3] -> float32 [B, C]"""


def require_finite(logits: Logits, path: str) -> None:
    """Raises DataError if the scores of an image, [C], are infinite or no numbers."""
    if not np.isfinite(logits).all():
        problem = "the model gives no finite numbers for it; its weights may be damaged"
        raise DataError(path, problem, "If --precision is fp16 or bf16, try fp32.")
