"""Run a frozen backbone to compute features, and the statistics that standardize them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tlkit.data.normalize import normalize
from tlkit.data.preprocessing import Preprocessing
from tlkit.devices.kinds import kind_of
from tlkit.devices.memory import ChunkedForward
from tlkit.model.backbone import Backbone


class FeatureExtractor:
    """A frozen backbone on its device. Its weights must not change afterwards."""

    def __init__(
        self,
        backbone: Backbone,
        preprocessing: Preprocessing,
        device: torch.device,
        data_parallel: Callable[[nn.Module], nn.Module] = lambda module: module,
        on_smaller_batch: Callable[[int], object] = lambda size: None,
    ) -> None:
        """data_parallel: wraps the module for several devices. on_smaller_batch: called with the new batch size after
        an out-of-memory error."""
        self.backbone = backbone
        self.preprocessing = preprocessing
        self.device = device
        self.data_parallel = data_parallel
        self.in_parts = ChunkedForward(self.forward, on_smaller_batch)

    @cached_property
    def fast_network(self) -> nn.Module:
        """Made when the first image comes: mostly none does."""
        return self.data_parallel(self.backbone.optimized_for_inference(self.preprocessing.image_size))

    @torch.no_grad()  # not inference_mode: its tensors could not train a head
    def __call__(self, pixels: NDArray[np.uint8]) -> Tensor:
        """uint8 [B, H, W, 3] -> features [B, D] or [B, P, D], float32 on the device."""
        batch = torch.from_numpy(pixels)
        return self.in_parts(kind_of(self.device).from_host(batch))

    def forward(self, batch: Tensor) -> Tensor:
        """Features of one chunk: uint8 [B, H, W, 3] -> float32 [B, D] or [B, P, D]."""
        features: Tensor = self.fast_network(normalize(batch.to(self.device, non_blocking=True), self.preprocessing))
        return features


SHRINKAGE = 32
"""Images at which a feature's own variance and the average feature's count alike."""


def feature_statistics(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation of each feature, [D] and [D] in float64, over all samples and positions.

    Of few images the variance of a feature is a poor estimate, and dividing by one that is too small makes noise of
    nearly constant features as large as the signal. So it is shrunk towards the mean variance of all features:
    w * variance + (1 - w) * mean(variance) with w = n / (n + SHRINKAGE) for n images. None if there are no features.

    Summed batch by batch around the first batch's mean, so that neither memory grows nor precision is lost.
    """
    count, images = 0, 0
    for batch in batches:
        rows = batch.reshape(-1, batch.shape[-1]).double()
        if not count:
            centre = rows.mean(dim=0)
            sums, squares = torch.zeros_like(centre), torch.zeros_like(centre)
        shifted = rows - centre
        sums += shifted.sum(dim=0)
        squares += shifted.square().sum(dim=0)
        count += len(rows)
        images += len(batch)
    if not count:
        return None
    offset = sums / count
    variance = (squares / count - offset.square()).clamp_min(0)
    weight = images / (images + SHRINKAGE)
    return centre + offset, (weight * variance + (1 - weight) * variance.mean()).sqrt()
