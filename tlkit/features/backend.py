"""The backend that computes the features of a run, torch or onnxruntime, and the rule that chooses it.

The rule looks at facts that do not change from one execution to the next (see `choose_backend`). It measures no time
and does not look into the cache, so the same command on the same files gives the same digits on every machine of one
kind. The two backends round differently, so each has its own feature sets in the cache, and a run keeps the backend
that it started with: options.json records it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from tlkit.data.decoders import Pixels
from tlkit.errors import UsageError, first_line, is_memory
from tlkit.export.graphs import FEATURES, PIXELS, as_onnx, has_extra, require_extra, weight_bytes
from tlkit.features.cache import Namespace
from tlkit.features.extractor import FeatureExtractor
from tlkit.features.onnx_graphs import find_graph, keep_graph
from tlkit.files.description import metadata_of
from tlkit.model.files import FromPixels, ModelDescription
from tlkit.model.head import HEADS
from tlkit.model.onnx_session import Session, import_runtime, start_session
from tlkit.model.optimize import close, is_convolutional
from tlkit.options import FinetuneOptions
from tlkit.terminal import log_status

Backend = Literal["torch", "onnxruntime"]
TORCH: Backend = "torch"
ONNXRUNTIME: Backend = "onnxruntime"
FLAG, INSTEAD = "--engine onnxruntime", "Use --engine torch."

LIBRARIES = {
    TORCH: ("torch", "torchvision", "timm", "pillow"),
    ONNXRUNTIME: ("onnxruntime", "onnxscript", "torch", "torchvision", "timm", "pillow"),
}
"""Packages whose version is part of the cache key."""

FEWEST_IMAGES = 500
"""For a CNN on a CPU onnxruntime takes about 0.8 of torch's time per image, and the export of a backbone about 6 s: at
60 ms per image the export pays from 500 images on."""

LARGEST_WEIGHTS = 256 << 20
"""Bytes of weights. Exporting a network needs several copies of them in memory."""

TOLERANCE = 1e-4
"""Largest difference between the features of both backends, as a fraction of the largest feature."""


@dataclass(frozen=True)
class FeatureJob:
    """The facts that decide which backend computes features.

    images: of the dataset, times the views of each, whether they are cached or not. device: its kind, or both kinds.
    backbone_runs_once: not once per epoch. processes: that share the work.
    """

    images: int
    device: str
    precision: str
    convolutional: bool
    weight_bytes: int
    backbone_runs_once: bool = True
    processes: int = 1


def choose_backend(job: FeatureJob) -> Backend:
    """The rule: onnxruntime for a CNN of at most 256 MiB, in fp32, on a CPU, in one process, from 500 images on."""
    is_faster_in_onnxruntime = (
        job.backbone_runs_once
        and job.convolutional
        and job.device == "cpu"
        and job.precision == "fp32"
        and job.processes == 1
        and job.weight_bytes <= LARGEST_WEIGHTS
        and job.images >= FEWEST_IMAGES
    )
    return ONNXRUNTIME if is_faster_in_onnxruntime else TORCH


@dataclass(frozen=True)
class Engines:
    """The frozen backbone of a run, run by either backend. torch_pass: by torch."""

    options: FinetuneOptions
    description: ModelDescription
    torch_pass: FeatureExtractor

    def choose(self, images: int, processes: int) -> Backend:
        """The backend of a new run, or the one that the options record.

        images: of the dataset, times the views of each. Raises UsageError or UnavailableError if the backend that
        --engine names cannot run here.
        """
        wanted = self.options.engine
        if wanted == ONNXRUNTIME:
            require_extra(FLAG)
            if self.torch_pass.device.type != "cpu":
                raise UsageError(
                    FLAG, f"needs the CPU, but the run is on {self.torch_pass.device}", "Add --device cpu."
                )
        if wanted != "auto":
            return wanted
        backbone, precision = self.torch_pass.backbone.network, self.torch_pass.backbone.precision
        job = FeatureJob(
            images,
            kinds_of_devices(backbone),
            precision,
            is_convolutional(backbone),
            weight_bytes(backbone),
            not self.options.feeds_images(),
            processes,
        )
        chosen = choose_backend(job)
        return chosen if chosen == TORCH or (has_extra() and self.runs_in_onnxruntime()) else TORCH

    def runs_in_onnxruntime(self) -> bool:
        """Whether onnxruntime runs this backbone and gives torch's features."""
        try:
            return self.session is not None
        except Exception as error:  # exporters raise anything for a network that they cannot follow
            if is_memory(error):
                raise
            return False

    def extract(self, backend: Backend) -> Callable[[Pixels], Tensor]:
        """uint8 [B, H, W, 3] -> features [B, ...], float32"""
        return self.torch_pass if backend == TORCH else lambda pixels: run(self.session, pixels)

    @cached_property
    def session(self) -> Session:
        """onnxruntime's session of the backbone. Raises as `graph`."""
        return self.start(self.graph())

    def graph(self) -> bytes:
        """The backbone as ONNX, from pixels to features: from the cache, or exported, compared with torch and kept.

        Raises UsageError if the backbone cannot be exported, or if the export gives other features.
        """
        namespace = self.cache_namespace(ONNXRUNTIME)
        kept = find_graph(namespace)
        if kept is not None:
            return kept.content
        require_extra(FLAG)
        log_status("export", f"{self.description.backbone} to ONNX, once: later runs take it from the cache")
        content = self.export(namespace)
        self.require_agreement(self.start(content))
        keep_graph(namespace, content, self.options.cache_bytes())
        return content

    def start(self, content: bytes) -> Session:
        session = start_session(import_runtime(FLAG), FLAG, content, "cpu", torch.get_num_threads())
        return session

    def export(self, namespace: Namespace) -> bytes:
        preprocessing = self.torch_pass.preprocessing
        network = FromPixels(self.torch_pass.fast_network, preprocessing).eval()
        try:
            return as_onnx(network, preprocessing.image_size, FEATURES, metadata_of(namespace))
        except Exception as error:  # as above
            if is_memory(error):
                raise
            problem = f"cannot run {self.description.backbone}: {type(error).__name__}: {first_line(error)[:160]}"
            raise UsageError(FLAG, problem, INSTEAD) from error

    def require_agreement(self, session: Session) -> None:
        """Raises UsageError unless onnxruntime gives torch's features for one image and for several."""
        generator = np.random.default_rng(0)
        for count in (1, 3):
            pixels = generator.integers(0, 256, (count, *self.torch_pass.preprocessing.image_size, 3), np.uint8)
            if not close(run(session, pixels), self.torch_pass(pixels), TOLERANCE):
                problem = f"gives other features of {self.description.backbone} than torch does"
                raise UsageError(FLAG, problem, INSTEAD)

    def cache_namespace(self, backend: Backend) -> Namespace:
        """Everything besides the image and its view that determines a feature: the key of a feature set."""
        backbone = self.torch_pass.backbone
        return {
            "backbone": str(self.description.backbone),
            "features": "class outputs" if HEADS[self.options.head].on_class_outputs else "what enters the classifier",
            "weights": self.description.weights,
            "weights_sha256": self.description.sha256,
            "preprocessing": self.torch_pass.preprocessing.to_dict(),
            "precision": backbone.precision,
            "device": kinds_of_devices(backbone.network),
            "engine": backend,
            "versions": {name: version(name) for name in LIBRARIES[backend]},
        }


def kinds_of_devices(network: nn.Module) -> str:
    """cpu, cuda, or cpu+cuda for a network that is divided among both."""
    return "+".join(sorted({parameter.device.type for parameter in network.parameters()}))


def run(session: Session, pixels: Pixels) -> Tensor:
    """uint8 [B, H, W, 3] -> features [B, ...]"""
    return torch.from_numpy(session.run([FEATURES], {PIXELS: pixels})[0])
