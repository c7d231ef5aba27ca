"""A model run by torch, quicker from the second batch on."""

from __future__ import annotations

import torch
from torch import Tensor

from tlkit.data.batches import normalise
from tlkit.data.decoders import Pixels
from tlkit.data.preprocessing import Preprocessing
from tlkit.model.files import LoadedModel
from tlkit.model.inference import in_precision, quickened
from tlkit.model.labeller import Logits

QUICKEN_AFTER = 32
"""Images that pass first: for one image, making a network quicker takes longer than it saves."""


class TorchModel:
    """A Labeller. precision: a key of PRECISIONS."""

    def __init__(self, model: LoadedModel, device: torch.device, precision: str) -> None:
        self.classes: tuple[str, ...] = model.classes
        self.preprocessing: Preprocessing = model.preprocessing
        self.network = model.network.to(device)
        self.device = device
        self.precision = precision
        self.seen = 0
        self.quick = False

    def expect(self, images: int) -> None:
        if images >= QUICKEN_AFTER and not self.quick:
            self.network = quickened(self.network, self.preprocessing.image_size)
            self.quick = True

    @torch.inference_mode()
    def logits(self, pixels: Pixels) -> Logits:
        """uint8 [B, H, W, 3] -> float32 [B, C]"""
        self.expect(self.seen)
        self.seen += len(pixels)
        batch = torch.from_numpy(pixels)
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        with in_precision(self.precision, self.device):
            found: Tensor = self.network(normalise(batch.to(self.device, non_blocking=True), self.preprocessing))
        return found.float().cpu().numpy()
