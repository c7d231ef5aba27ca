"""Run a model with torch, with a network optimized for inference after the first images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tlkit.data.decoders import Pixels
from tlkit.data.normalize import normalize
from tlkit.data.preprocessing import Preprocessing
from tlkit.devices.kinds import kind_of
from tlkit.devices.memory import ChunkedForward
from tlkit.devices.select import in_precision
from tlkit.inference.predictor import Logits
from tlkit.model.files import LoadedModel
from tlkit.model.optimize import optimized_for_inference

QUICKEN_AFTER = 32
"""Optimize the network after this many images: for a single image, optimizing takes longer than it saves."""


class TorchPredictor:
    """A Predictor whose network is already on its devices; images enter on `device`. precision: a key of PRECISIONS.

    shared_out: how several devices pass a batch together.
    """

    def __init__(
        self,
        model: LoadedModel,
        device: torch.device,
        precision: str,
        data_parallel: Callable[[nn.Module], nn.Module] = lambda module: module,
    ) -> None:
        self.classes: tuple[str, ...] = model.classes
        self.preprocessing: Preprocessing = model.preprocessing
        self.network = model.network
        self.data_parallel = data_parallel
        self.module = data_parallel(self.network)
        self.in_parts = ChunkedForward(self.forward)
        self.device = device
        self.precision = precision
        self.seen = 0
        self.fast_network = False

    @property
    def computing(self) -> str:
        return f"torch, {self.device.type} in {self.precision}"

    def expect(self, images: int) -> None:
        if images >= QUICKEN_AFTER and not self.fast_network:
            self.network = optimized_for_inference(self.network, self.preprocessing.image_size)
            self.module = self.data_parallel(self.network)
            self.fast_network = True

    @torch.inference_mode()
    def logits(self, pixels: Pixels) -> Logits:
        """uint8 [B, H, W, 3] -> float32 [B, C]"""
        self.expect(self.seen)
        self.seen += len(pixels)
        batch = torch.from_numpy(pixels)
        return self.in_parts(kind_of(self.device).from_host(batch)).cpu().numpy()

    def forward(self, batch: Tensor) -> Tensor:
        """Logits of one chunk, [B, C] float32."""
        with in_precision(self.precision, self.device):
            found: Tensor = self.module(normalize(batch.to(self.device, non_blocking=True), self.preprocessing))
        return found.float()
