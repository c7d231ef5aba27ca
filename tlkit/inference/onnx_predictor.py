"""Run a model in an .onnx file with onnxruntime. Loads no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tlkit.data.decoders import Pixels
from tlkit.data.preprocessing import Preprocessing
from tlkit.errors import DataError
from tlkit.files.description import class_names
from tlkit.files.onnx_file import OnnxFile
from tlkit.inference.predictor import Logits
from tlkit.model.onnx_session import Session, failure, import_runtime, plain, start_session


@dataclass(frozen=True)
class OnnxPredictor:
    """A Predictor."""

    path: str
    session: Session
    classes: tuple[str, ...]
    preprocessing: Preprocessing

    @property
    def computing(self) -> str:
        return f"onnxruntime, {plain(self.session.get_providers()[0])}"

    def expect(self, images: int) -> None:
        pass

    def logits(self, pixels: Pixels) -> Logits:
        """uint8 [B, H, W, 3] -> float32 [B, C]"""
        try:
            return self.session.run(["logits"], {"pixels": pixels})[0]
        except Exception as error:  # onnxruntime's exceptions have no class in common
            raise failure(self.path, error) from error


def open_graph(path: str, file: OnnxFile, device: str) -> OnnxPredictor:
    """A predictor of a file that has been read. path: for error messages. device: auto, cpu, cuda or cuda:N.

    Raises DataError for a graph that does not run, UsageError or UnavailableError for a device, UnavailableError if
    onnxruntime is missing.
    """
    runtime = import_runtime(path)
    try:
        classes = class_names(file.description["classes"])
        preprocessing = Preprocessing.from_dict(file.description["preprocessing"])
        shapes = [["batch", *preprocessing.image_size, 3], ["batch", len(classes)]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(path, f"does not say which classes and preprocessing it has ({error})") from error
    session = start_session(runtime, path, file.content, device, len(os.sched_getaffinity(0)))
    ends = [*session.get_inputs(), *session.get_outputs()]
    if [end.name for end in ends] != ["pixels", "logits"] or [end.shape for end in ends] != shapes:
        raise DataError(path, "is damaged: its graph is not for the images and classes that it names")
    return OnnxPredictor(path, session, classes, preprocessing)
