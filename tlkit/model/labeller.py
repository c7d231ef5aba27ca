"""What predict and evaluate need of a model, whatever runs it. Loads no torch."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tlkit.data.decoders import Pixels
from tlkit.data.preprocessing import Preprocessing

Logits = NDArray[np.float32]


class Labeller(Protocol):
    """A model that is ready: images in, a score for each class out."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the pixels that logits takes."""

    def logits(self, pixels: Pixels) -> Logits:
        """uint8 [B, H, W, 3] -> float32 [B, C]"""
