"""Models that torch opens, run by onnxruntime all the same: their graphs are kept, and prepared beside long work.

Loads no torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tlkit.data.decoders import Pixels
from tlkit.data.preprocessing import Preprocessing
from tlkit.errors import TlkitError
from tlkit.features.cache import make_space, store_root
from tlkit.features.graphs import find_graph, has_graph
from tlkit.files.checksum import check_archive_checksum, checksum_in_archive
from tlkit.files.inputs import open_input
from tlkit.files.python_path import python_arguments
from tlkit.files.run_folder import RunFolder
from tlkit.inference.onnx_predictor import OnnxPredictor, open_graph
from tlkit.inference.predictor import Logits, Predictor
from tlkit.versions import version

PREPARE_AFTER = 10.0
"""Seconds of computing: who asks for less would never use what is prepared."""


LIBRARIES = ("tlkit", "onnxruntime", "onnxscript", "torch", "timm", "torchvision")


PROGRAM = "from tlkit.inference.onnx_prepare import main; main(*sys.argv[1:3])"
"""What the process that prepares runs, once it knows where this process found its modules."""


@dataclass(frozen=True)
class ModelGraph:
    """The graph of a model's file, which is known by its seal: where it is kept, if it is."""

    path: str
    seal: str

    def space(self) -> dict[str, Any]:
        """What the graph depends on."""
        return {"model": self.seal, "precision": "fp32", "versions": {name: version(name) for name in LIBRARIES}}

    def open(self) -> OnnxPredictor | None:
        """The model, run by onnxruntime, if its graph is kept and runs. Raises DataError for a file that is damaged."""
        if not has_graph(self.space()):
            return None
        with open_input(self.path) as file:
            check_archive_checksum(self.path, file)
        graph = find_graph(self.space())
        try:
            return None if graph is None else open_graph(self.path, graph, "cpu")
        except TlkitError:
            return None  # torch will do


def graph_of(path: str) -> ModelGraph | None:
    """What may be kept of the model that a MODEL names; None for what has no seal."""
    file = RunFolder(path).model_file if os.path.isdir(path) else path
    try:
        with open_input(file) as content:
            seal = checksum_in_archive(content)
    except TlkitError:
        return None
    return None if seal is None else ModelGraph(file, seal)


def may_have_gpu() -> bool:
    """Whether the system shows a driver of one, without loading torch to ask."""
    return any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")))


class Relay:
    """A Labeller: torch, until onnxruntime is ready to take over.

    What it needs is prepared by a process of its own at low priority, once torch has computed for a while and is what
    the time goes to. Nothing waits for that, and the next command finds it.
    """

    def __init__(self, model: Predictor, graph: ModelGraph) -> None:
        self.model = model
        self.graph = graph
        self.preparation: Preparation | None = None
        self.over = False
        self.began = time.monotonic()
        self.computed = 0.0

    @property
    def classes(self) -> tuple[str, ...]:
        return self.model.classes

    @property
    def preprocessing(self) -> Preprocessing:
        return self.model.preprocessing

    @property
    def computing(self) -> str:
        return self.model.computing

    def expect(self, images: int) -> None:
        self.model.expect(images)

    def logits(self, pixels: Pixels) -> Logits:
        """uint8 [B, H, W, 3] -> float32 [B, C]"""
        if not self.over:
            self.look()
        began = time.monotonic()
        found = self.model.logits(pixels)
        self.computed += time.monotonic() - began
        return found

    def look(self) -> None:
        """Begin to prepare where it may pay; take over what is ready."""
        if self.preparation is None:
            if self.computed >= PREPARE_AFTER and self.computed >= (time.monotonic() - self.began) / 2:
                self.prepare()
        elif self.preparation.has_ended():
            with suppress(TlkitError):  # the file has moved, or is another now: torch has it in memory
                self.model = self.graph.open() or self.model
            self.over = True

    def prepare(self) -> None:
        """Begin to prepare, if what is prepared can be kept."""
        try:
            make_space(store_root(), self.graph.space())
            self.preparation = Preparation(self.graph)
        except (OSError, TlkitError):
            self.over = True


class Preparation:
    """The process that prepares a graph. It ends by itself when this process does."""

    def __init__(self, graph: ModelGraph) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", *python_arguments(PROGRAM, graph.path, graph.seal)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def has_ended(self) -> bool:
        return self.process.poll() is not None
