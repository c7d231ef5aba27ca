"""Images to feature vectors, once for each image, and the statistics that standardise them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


@torch.no_grad()  # not inference_mode: its tensors could not train a head
def extract_features(backbone: nn.Module, batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Features of each batch: [B, 3, H, W] -> [B, D] or [B, P, D], float32 on the CPU."""
    backbone.eval()
    for images in batches:
        yield backbone(images.to(device, non_blocking=True)).float().cpu()


def feature_statistics(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation of each feature, [D] and [D] in float64, over all samples and positions.

    None if there are no features.

    Summed batch by batch around the first batch's mean, so that neither memory grows nor precision is lost.
    """
    count = 0
    for batch in batches:
        rows = batch.reshape(-1, batch.shape[-1]).double()
        if not count:
            centre = rows.mean(dim=0)
            sums, squares = torch.zeros_like(centre), torch.zeros_like(centre)
        shifted = rows - centre
        sums += shifted.sum(dim=0)
        squares += shifted.square().sum(dim=0)
        count += len(rows)
    if not count:
        return None
    offset = sums / count
    return centre + offset, (squares / count - offset.square()).clamp_min(0).sqrt()
