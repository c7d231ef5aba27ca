"""The training objective, single-label classification: its loss, its probabilities and its labels.

The only module that knows of softmax and cross-entropy. Loads no torch before a function needs it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


def label_tensor(labels: Iterable[int]) -> Tensor:
    """The labels of samples as a tensor, int64 [N]: one class index each."""
    import torch

    return torch.tensor([*labels], dtype=torch.int64)


def sample_losses(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """The loss of each sample. logits [B, C], labels [B] -> [B]; 0 for samples that only fill up a batch.

    class_weights [C]: factors of each class. label_smoothing: share of each label spread over all classes.
    """
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits, labels, class_weights, reduction="none", label_smoothing=label_smoothing)


def mean_loss(logits: Tensor, labels: Tensor) -> float:
    """The mean loss over samples, without weights and smoothing. logits [B, C], labels [B]"""
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits, labels).item()


def labelled(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The logits [N, C] and labels [N] of all pairs with a label; others only fill up a batch, or are held out.

    logits [B, C] and labels [B]; or of H heads, [B, C, H] and [B, H].
    """
    real = labels >= 0
    return logits.movedim(1, -1)[real], labels[real]


def log_probabilities(logits: Tensor) -> Tensor:
    """Logits [N, C] -> the logarithms of the class probabilities, float64 [N, C]."""
    return logits.detach().double().log_softmax(dim=1)


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits [..., C] -> class probabilities, float64 [..., C]. Needs no torch."""
    exponents = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=-1, keepdims=True))
