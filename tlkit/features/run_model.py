"""model.onnx of a finished run: what `tlkit predict RUN` runs on a CPU without loading torch.

For a frozen backbone it is the backbone's kept graph joined with the head, so only the first run of a backbone pays for
its export. Where layers of the backbone trained, or the head has layers that cannot be joined, the whole network is
exported.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tlkit.errors import UsageError, first_line
from tlkit.export.graphs import LOGITS, PIXELS, as_onnx, has_extra, weight_bytes
from tlkit.export.join_head import can_join, join_head
from tlkit.export.verify import compare
from tlkit.features.backend import Engines
from tlkit.features.extractor import FeatureExtractor
from tlkit.files.checksum import checksum_in_archive
from tlkit.files.description import metadata_of
from tlkit.files.inputs import open_input
from tlkit.files.onnx_file import MODEL_CHECKSUM_KEY, checksum_of
from tlkit.files.run_folder import RunFolder
from tlkit.model.classifier import Classifier
from tlkit.model.files import LoadedModel, ModelDescription
from tlkit.model.onnx_session import import_runtime, start_session
from tlkit.options import FinetuneOptions
from tlkit.terminal import log_status

LARGEST_WEIGHTS = 1 << 30
"""Bytes of weights of a network that gets a model.onnx."""

COMPARED = (1, 3)
"""Batch sizes with which model.onnx is compared with model.pt."""


def write_onnx_model(
    run: RunFolder, options: FinetuneOptions, classifier: Classifier, description: ModelDescription
) -> None:
    """Write model.onnx beside model.pt, which is there, and compare both. Moves the classifier to the CPU.

    Nothing is written without tlkit[onnx] or with --no-onnx. A failure is one status line and never fails the run.
    """
    run.remove(run.onnx_file)
    if options.no_onnx or not has_extra():
        return
    try:
        if (size := weight_bytes(classifier)) > LARGEST_WEIGHTS:
            raise UsageError("model.onnx", f"the network has {size / 1e9:.1f} GB of weights; the limit is 1 GiB")
        if options.parallel == "model":
            raise UsageError("model.onnx", "the layers are divided among devices by --parallel model")
        classifier.cpu()
        model = LoadedModel(classifier.to_plain_network(), description)
        with open_input(run.model_file) as file:
            checksum = checksum_in_archive(file) or ""  # ties model.onnx to model.pt
        content = build_graph(options, classifier, model, checksum)
        require_agreement(run.onnx_file, model, content)
        content += checksum_of(content)
        run.write(run.onnx_file, lambda file: file.write(content))
    except Exception as error:  # exporters raise anything for a network that they cannot follow
        log_status("warning", f"model.onnx is not written ({first_line(error)[:160]}); model.pt is complete")


def build_graph(options: FinetuneOptions, classifier: Classifier, model: LoadedModel, checksum: str) -> bytes:
    """The classifier on the CPU as ONNX, from pixels to logits, described as an export to ONNX is."""
    metadata = {**metadata_of(model.description.to_dict()), MODEL_CHECKSUM_KEY: checksum}
    size = model.preprocessing.image_size
    layers = classifier.head.folded()
    if classifier.unfrozen or not can_join(layers):
        log_status("export", "the whole network to ONNX")
        return as_onnx(model.from_pixels(model.network), size, LOGITS, metadata)
    classifier.backbone.precision = "fp32"
    extractor = FeatureExtractor(classifier.backbone, model.preprocessing, torch.device("cpu"))
    backbone = Engines(options, model.description, extractor).graph()
    return join_head(backbone, layers, classifier.head.shape.positions, metadata)


def require_agreement(path: str, model: LoadedModel, content: bytes) -> None:
    """Raises DataError unless onnxruntime gives the logits of torch."""
    session = start_session(import_runtime(path), path, content, "cpu", torch.get_num_threads())

    def logits(pixels: Tensor) -> Tensor:
        return torch.from_numpy(session.run([LOGITS], {PIXELS: pixels.numpy()})[0])

    compare(model, logits, path, COMPARED)
