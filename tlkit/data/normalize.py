"""Turn uint8 pixels into normalized float tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from tlkit.data.preprocessing import Preprocessing


def normalize(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W], bit for bit as torchvision's ToTensor and Normalize.

    The memory layout stays channels-last, which is faster for convolutions.
    """
    mean = torch.tensor(preprocessing.mean, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(preprocessing.std, device=pixels.device).view(3, 1, 1)
    images = pixels.permute(0, 3, 1, 2).float().div_(255)
    return images.sub_(mean).div_(std)
