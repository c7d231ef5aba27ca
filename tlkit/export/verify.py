"""Compare an export with its model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tlkit.errors import DataError
from tlkit.model.files import LoadedModel

TOLERANCE = 1e-4
"""Allowed difference of logits, times the largest logit if that is above 1. Rounding stays far below."""

TIE = 1e-6
"""Logits this close, as a fraction of the largest, are tied: either class may be predicted."""

BATCH_SIZES = (1, 7, 64)
"""Batches of images to compare."""


@torch.inference_mode()
def compare(
    model: LoadedModel, reread: Callable[[Tensor], Tensor], output: str, sizes: Sequence[int] = BATCH_SIZES
) -> float:
    """The largest difference of logits between a model and its export on random images.

    Raises DataError if it exceeds rounding, or if the predicted classes differ.
    """
    largest = 0.0
    network = model.from_pixels(model.network)
    height, width = model.preprocessing.image_size
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        pixels = torch.randint(256, (size, height, width, 3), generator=generator, dtype=torch.uint8)
        expected, found = network(pixels), reread(pixels)
        scale = max(1.0, expected.abs().max().item())
        difference = (expected - found).abs().max().item()
        if not difference <= TOLERANCE * scale:
            raise DataError(output, f"was read back with logits that differ by {difference:.3g}; do not use it")
        chosen = expected.gather(1, found.argmax(dim=1, keepdim=True))  # [B, 1]
        if not (expected.amax(dim=1, keepdim=True) - chosen <= TIE * scale).all():
            raise DataError(output, "was read back with a different prediction for an image; do not use it")
        largest = max(largest, difference)
    return largest
