"""Every kind of file that tlkit writes and opens again, and every way it is opened."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.conftest import COLOURS, finetune_arguments
from tlkit.errors import DataError

Open = Callable[[str], object]

EXPORTS = {
    "state_dict": "state_dict.pt",
    "full": "full.pt",
    "safetensors": "model.safetensors",
    "timm": "timm",
    "onnx": "model.onnx",
    "torch_export": "model.pt2",
}


@dataclass(frozen=True)
class Kind:
    """A kind of file. name: of the file. ways: how it is opened, each given its path.

    inside: the file of a folder that is meant; the ways are given the folder.
    """

    name: str
    ways: Mapping[str, Open]
    inside: str = ""
    unsafe: bool = field(default=False)

    def file(self, folder: Path) -> Path:
        return folder / self.name / self.inside if self.inside else folder / self.name


def as_model(path: str) -> object:
    """As export and summary do."""
    from tlkit.model.open import open_model

    return open_model(path)


def as_labeller(path: str) -> object:
    """As predict and evaluate do."""
    from tlkit.inference.open import open_predictor
    from tlkit.options.predict import InferenceOptions

    return open_predictor(InferenceOptions(model=path, device="cpu", precision="fp32"))


def as_trusted_model(path: str) -> object:
    """As any command does under --trust-pickle."""
    from tlkit.model.open import open_model

    return open_model(path, None, path)


def as_trusted_weights(path: str) -> object:
    """As finetune --weights does under --trust-pickle."""
    from tlkit.model.weights import read_weights_file

    return read_weights_file(path, path)


def as_weights(path: str) -> object:
    """As finetune --weights does."""
    from tlkit.model.weights import read_weights_file

    return read_weights_file(path)


def as_checkpoint(path: str) -> object:
    """As resume does."""
    from tlkit.runs.checkpoints import read_checkpoint

    return read_checkpoint(path)


def as_segment(path: str) -> object:
    """As a run does that wants all vectors of a segment."""
    from tlkit.features.segments import OpenFile, Segment, checksum

    try:
        segment = Segment.read(path)
    except ValueError as error:
        raise DataError(path, str(error)) from error
    file = OpenFile()
    for row, (key, expected) in enumerate(segment.index):
        content = file.read(segment.path, segment.offset + row * segment.row_bytes, segment.row_bytes)
        if content is None or checksum(bytes(key), content) != expected:
            raise DataError(path, "a row is damaged")
    file.close()
    return segment


MODEL = {"model": as_model, "labeller": as_labeller}

KINDS: dict[str, Kind] = {
    "checkpoint": Kind("run/checkpoints/last.pt", {**MODEL, "checkpoint": as_checkpoint}),
    "model.pt": Kind("run/model.pt", {**MODEL, "weights": as_weights}),
    "state_dict": Kind("state_dict.pt", {"weights": as_weights}),
    "full": Kind("full.pt", {"model": as_trusted_model, "weights": as_trusted_weights}, unsafe=True),
    "safetensors": Kind("model.safetensors", {**MODEL, "weights": as_weights}),
    "timm": Kind("timm", MODEL, inside="model.safetensors"),
    "timm config": Kind("timm", MODEL, inside="config.json"),
    "onnx": Kind("model.onnx", {"labeller": as_labeller}),
    "torch_export": Kind("model.pt2", MODEL),
    "segment": Kind("vectors.segment", {"segment": as_segment}),
}


def write_artifacts(folder: Path, run: Path) -> None:
    """A file of each kind, from a finished run."""
    from tlkit.cli import run as tlkit
    from tlkit.features.segments import Segment

    shutil.copytree(run, folder / "run")
    for format, name in EXPORTS.items():
        with contextlib.redirect_stderr(io.StringIO()):
            status = tlkit(["export", str(run), "--format", format, "-o", str(folder / name)])
        assert status == 0, format
    generator = np.random.default_rng(0)
    rows = {generator.bytes(16): generator.random((4, 3), np.float32) for _ in range(40)}
    with open(folder / "vectors.segment", "wb") as file:
        Segment.write(file, rows)


def write_all(folder: Path) -> None:
    """A file of each kind, for programs that are no tests."""
    from tests.conftest import write_folder
    from tlkit.cli import run as tlkit

    os.environ.setdefault("TLKIT_CACHE", str(folder / "cache"))
    images = write_folder(folder / "images", 6)
    assert len(list(images.iterdir())) == len(COLOURS)
    with contextlib.redirect_stderr(io.StringIO()):
        assert tlkit(finetune_arguments(images, folder / "trained")) == 0
    write_artifacts(folder, folder / "trained")
