"""What computes the features of a run: torch or onnxruntime, decided once for each run.

The two round differently. So each has spaces of its own in the feature store, a run keeps to one of them, and its
options remember which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tlkit.data.decoders import Pixels
from tlkit.data.folder import Sample
from tlkit.data.image_file import ImageError, file_digest
from tlkit.data.view import View
from tlkit.errors import UsageError, first_line, is_memory
from tlkit.export.graphs import FEATURES, PIXELS, as_onnx, require_extra
from tlkit.export.verify import pays_as_graph
from tlkit.features.extractor import FeatureExtractor
from tlkit.features.graphs import find_graph, has_graph, keep_graph
from tlkit.features.store import count_held, feature_key
from tlkit.files.description import metadata_of
from tlkit.model.files import FromPixels, ModelDescription
from tlkit.model.head import HEADS
from tlkit.model.onnx_session import import_runtime, start_session
from tlkit.model.optimize import close
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
"""Whose versions decide the bits of a vector."""


SHARE = 0.8
"""Of torch's time, what onnxruntime takes for an image at most, where a network is made of convolutions."""


EXPORT_SECONDS = 6.0
"""What it takes to export a backbone, for one command: the graph is kept."""


SAMPLE = 64
"""Images of a run that are looked up to learn how many of all are known."""


Passes = Sequence[tuple[Sequence[Sample], View]]
"""Images that are to pass the backbone, by the view that is taken of them."""


TOLERANCE = 1e-4
"""Of the largest feature: how far the two may be apart. Rounding stays far below."""


@dataclass(frozen=True)
class Engines:
    """The frozen backbone of a run, to be run by either. torch_pass: by torch."""

    options: FinetuneOptions
    description: ModelDescription
    torch_pass: FeatureExtractor

    def choose(self, passes: Passes, ranks: int) -> Backend:
        """The engine of a run that begins, or as it was chosen then. Ranks, which would each judge for themselves, all
        take torch unless they are told.

        Raises UsageError or UnavailableError if the one that is asked for cannot run here.
        """
        wanted = self.options.engine
        if wanted == ONNXRUNTIME:
            require_extra(FLAG)
            if self.torch_pass.device.type != "cpu":
                raise UsageError(FLAG, f"is for the processor, not for {self.torch_pass.device}", "Add --device cpu.")
        if wanted != "auto":
            return wanted
        return ONNXRUNTIME if ranks == 1 and self.pays_at_all() and self.is_sooner_done(passes) else TORCH

    def pays_at_all(self) -> bool:
        """Whether onnxruntime can run the backbone here, and is quicker."""
        return (
            not self.options.feeds_images()
            and self.options.parallel == "none"
            and self.torch_pass.device.type == "cpu"
            and self.torch_pass.backbone.precision == "fp32"
            and pays_as_graph(self.torch_pass.backbone.network)
        )

    def is_sooner_done(self, passes: Passes) -> bool:
        """Whether onnxruntime computes what its space lacks sooner than torch what torch's lacks, and is ready to."""
        images = sum(len(samples) for samples, _ in passes)
        keys = sampled_keys(passes, -(-images // SAMPLE) or 1)
        by_torch, by_onnxruntime = (
            images * (1 - count_held(self.space(engine), keys) / max(1, len(keys))) for engine in (TORCH, ONNXRUNTIME)
        )
        saved = by_torch - SHARE * by_onnxruntime  # as many images as torch would have to compute
        if saved <= 0 or by_onnxruntime == 0 or has_graph(self.space(ONNXRUNTIME)):
            return saved > 0
        return saved * self.torch_pass.seconds_an_image() > EXPORT_SECONDS and self.can_be_prepared()

    def can_be_prepared(self) -> bool:
        """Whether onnxruntime can run the backbone, as torch does but for rounding."""
        log_status("engine", "onnxruntime, which is quicker for so many images; it takes some seconds to prepare")
        try:
            return self.session is not None
        except Exception as error:  # runtimes raise anything for a network that they cannot follow
            if is_memory(error):
                raise
            return False

    def extract(self, engine: Backend) -> Callable[[Pixels], Tensor]:
        """uint8 [B, H, W, 3] -> features [B, ...], float32"""
        return self.torch_pass if engine == TORCH else lambda pixels: run(self.session, pixels)

    @cached_property
    def session(self) -> Any:
        """onnxruntime's, made when the first image comes: mostly none does. The graph is kept for later runs.

        Raises UsageError if the backbone cannot be exported, or what is exported gives other features.
        """
        space = self.space(ONNXRUNTIME)
        kept = find_graph(space)
        if kept is not None:
            return self.start(kept.content)
        require_extra(FLAG)
        content = self.export(space)
        session = self.start(content)
        self.require_agreement(session)
        keep_graph(space, content, self.options.cache_bytes())
        return session

    def start(self, content: bytes) -> Any:
        return start_session(import_runtime(FLAG), FLAG, content, "cpu", torch.get_num_threads())

    def export(self, space: dict[str, Any]) -> bytes:
        """The backbone as ONNX, from pixels to features."""
        preprocessing = self.torch_pass.preprocessing
        network = FromPixels(self.torch_pass.fast_network, preprocessing).eval()
        try:
            return as_onnx(network, preprocessing.image_size, FEATURES, metadata_of(space))
        except Exception as error:  # as above
            if is_memory(error):
                raise
            problem = f"cannot run {self.description.backbone}: {type(error).__name__}: {first_line(error)[:160]}"
            raise UsageError(FLAG, problem, INSTEAD) from error

    def require_agreement(self, session: Any) -> None:
        """Raises UsageError unless onnxruntime gives the features that torch gives, for one image and for several."""
        generator = np.random.default_rng(0)
        for count in (1, 3):
            pixels = generator.integers(0, 256, (count, *self.torch_pass.preprocessing.image_size, 3), np.uint8)
            if not close(run(session, pixels), self.torch_pass(pixels), TOLERANCE):
                raise UsageError(FLAG, f"gives other features of {self.description.backbone} than torch does", INSTEAD)

    def space(self, engine: Backend) -> dict[str, Any]:
        """What determines a vector beside the image and its view."""
        backbone = self.torch_pass.backbone
        return {
            "backbone": str(self.description.backbone),
            "features": "class outputs" if HEADS[self.options.head].on_class_outputs else "what enters the classifier",
            "weights": self.description.weights,
            "weights_sha256": self.description.sha256,
            "preprocessing": self.torch_pass.preprocessing.to_dict(),
            "precision": backbone.precision,
            "device": kinds_of_devices(backbone.network),
            "engine": engine,
            "versions": {name: version(name) for name in LIBRARIES[engine]},
        }


def kinds_of_devices(network: nn.Module) -> str:
    """cpu, cuda, or cpu+cuda of one that is divided."""
    return "+".join(sorted({parameter.device.type for parameter in network.parameters()}))


def run(session: Any, pixels: Pixels) -> Tensor:
    """uint8 [B, H, W, 3] -> features [B, ...]"""
    return torch.from_numpy(session.run([FEATURES], {PIXELS: pixels})[0])


def sampled_keys(passes: Passes, step: int) -> list[bytes]:
    """The keys of every step-th image. What cannot be read is somebody else's to name."""
    keys: list[bytes] = []
    for samples, view in passes:
        for sample in samples[::step]:
            with suppress(ImageError), sample.open() as file:
                keys.append(feature_key(file_digest(sample.path, file), view.name))
    return keys
