"""Open MODEL from the command line: a run folder, checkpoint, model.pt or exported file."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Callable, Mapping

from torch import nn

from tlkit.errors import DataError, MismatchError, MissingInputError, UsageError
from tlkit.files.artifact import artifact_in, as_content_of, open_torch_file, without_checksum
from tlkit.files.checksum import sha256_of_file
from tlkit.files.description import DESCRIPTION_KEY, class_names, parse_description
from tlkit.files.inputs import open_input
from tlkit.files.json_file import read_json
from tlkit.files.pickles import is_torch_like
from tlkit.files.pt2_file import is_program, read_pt2
from tlkit.files.run_folder import RunFolder
from tlkit.files.safetensors_file import SafetensorsFile, is_safetensors, read_safetensors
from tlkit.files.timm_folder import CONFIG_FILE, WEIGHTS_FILE, read_timm_folder
from tlkit.model.build import assemble, require_same_backbone, stored_options
from tlkit.model.classifier import Classifier
from tlkit.model.files import (
    CHECKPOINT_FORMAT,
    MODEL_FORMAT,
    LoadedModel,
    ModelDescription,
    load_described_model,
    require_units,
)
from tlkit.model.state_dict import tensors
from tlkit.options import EXPORT_SUFFIXES, FinetuneOptions


def open_model(path: str, weights: str | None = None, trusted: str | None = None) -> LoadedModel:
    """Open a model from any file or folder that tlkit writes.

    weights: the backbone's weights file, if a checkpoint's own has moved. trusted: the file that may run code, if any.
    """
    if not os.path.exists(path):
        raise MissingInputError(path, "no such file or folder")
    if os.path.isdir(path):
        return open_folder(path, weights, trusted)
    return OPENERS[format_of(path)](path, weights, trusted)


def format_of(path: str) -> str:
    """The key of OPENERS for a file, from its content, or from its suffix if the content is damaged."""
    with open_input(path) as file:
        if is_safetensors(file):
            return "safetensors"
        if is_program(file):
            return "torch_export"
        file.seek(0)
        if is_torch_like(file.read(512)):
            return "torch"
    return next((format for format, suffix in EXPORT_SUFFIXES.items() if path.endswith(suffix)), "torch")


def open_folder(path: str, weights: str | None, trusted: str | None) -> LoadedModel:
    """Open a run folder (model.pt, or its best checkpoint), or a folder exported with --format timm."""
    if os.path.isfile(os.path.join(path, CONFIG_FILE)):
        return load_self_describing(path, read_timm_folder(path))
    return open_model(file_of_run(path), weights, trusted)


def file_of_run(path: str) -> str:
    """The file with a run folder's model: model.pt, else the best checkpoint. Raises DataError if it has neither."""
    run = RunFolder(path)
    for file in (run.model_file, run.best_checkpoint):
        if os.path.exists(file):
            return file
    if os.path.exists(run.options_file):
        raise DataError(
            path, "has no model yet: no epoch is finished", f"Resume with: tlkit resume {shlex.quote(path)}"
        )
    raise DataError(path, "is neither a run folder nor an exported model")


def open_torch(path: str, weights: str | None, trusted: str | None) -> LoadedModel:
    """Open model.pt, a checkpoint, or a pickled module (--format full) that the user trusts."""
    file = open_torch_file(path, trusted)
    if isinstance(file.content, nn.Module):
        with as_content_of(path, "model"):
            known = parse_description(path, dict(getattr(file.content, DESCRIPTION_KEY, {})))
        if not file.has_valid_checksum:
            raise without_checksum(path)
        return load_described_model(path, known, file.content.state_dict())
    content = artifact_in(file, MODEL_FORMAT, CHECKPOINT_FORMAT)
    if content["format"] == CHECKPOINT_FORMAT:
        return open_checkpoint(path, content, weights, trusted)
    return described_artifact(path, content)


def described_artifact(path: str, content: Mapping[str, object]) -> LoadedModel:
    """Open the content of a file whose keys describe the model."""
    with as_content_of(path, "model"):
        state = content["model_state_dict"]
    return load_described_model(path, content, state)


def load_self_describing(path: str, file: SafetensorsFile) -> LoadedModel:
    """Open a file whose metadata describes the model."""
    known = parse_description(path, file.metadata)
    if not file.has_valid_checksum:
        raise without_checksum(path)
    return load_described_model(path, known, file.state)


def refuse_onnx(path: str, weights: str | None, trusted: str | None) -> LoadedModel:
    """Raises UsageError: only predict and evaluate run ONNX files, through onnxruntime."""
    problem = "is an ONNX file, which only predict and evaluate accept"
    raise UsageError(path, problem, "Use the run folder, model.pt or .safetensors file that it was exported from.")


OPENERS: dict[str, Callable[[str, str | None, str | None], LoadedModel]] = {
    "torch": open_torch,
    "torch_export": lambda path, *_: described_artifact(path, read_pt2(path)),
    "safetensors": lambda path, *_: load_self_describing(path, read_safetensors(path)),
    "onnx": refuse_onnx,
}


@dataclasses.dataclass(frozen=True)
class Restored:
    """The classifier of a checkpoint. options: of its run."""

    options: FinetuneOptions
    classifier: Classifier
    description: ModelDescription


def open_checkpoint(
    path: str, checkpoint: Mapping[str, object], weights: str | None, trusted: str | None
) -> LoadedModel:
    """Rebuild the model of a checkpoint: the backbone with its original weights, checked by hash, and its head."""
    restored = restore_classifier(path, checkpoint, weights, trusted)
    return LoadedModel(restored.classifier.to_plain_network(), restored.description)


def restore_classifier(
    path: str, checkpoint: Mapping[str, object], weights: str | None, trusted: str | None
) -> Restored:
    """The classifier of a checkpoint, with the options that it was trained with.

    Raises DataError or MismatchError if the checkpoint does not fit what is built.
    """
    run = RunFolder.containing(path)
    stored = run.read_options()["resolved"] if run else checkpoint.get("options")
    with as_content_of(path, "checkpoint"):
        classes, state = class_names(checkpoint["classes"]), tensors(checkpoint["model_state_dict"])
    options = stored_options(run.options_file if run else path, stored)
    require_units(path, state, len(classes), options.hidden)
    if weights is not None:
        options = dataclasses.replace(options, weights=weights)
    try:
        classifier, description = assemble(dataclasses.replace(options, trust_pickle=trusted), classes)
    except UsageError as error:
        raise MismatchError(path, f"its network cannot be built: {error}", error.hint) from error
    require_same_backbone(description, checkpoint, path)
    try:
        classifier.load_trainable_state(state)
    except MismatchError as error:
        raise MismatchError(path, error.problem, error.hint) from error
    return Restored(options, classifier, description)


def model_sha256(path: str) -> str:
    """SHA-256 of the file that holds MODEL, after it has been opened."""
    weights = os.path.join(path, WEIGHTS_FILE)
    if os.path.isdir(path):
        path = weights if os.path.exists(weights) else file_of_run(path)
    return sha256_of_file(path)


def is_exported_folder(path: str) -> bool:
    """Whether a folder holds an export with --format timm and nothing else."""
    config = os.path.join(path, CONFIG_FILE)
    if not (set(os.listdir(path)) <= {CONFIG_FILE, WEIGHTS_FILE} and os.path.isfile(config)):
        return False
    content = read_json(config)
    return isinstance(content, dict) and DESCRIPTION_KEY in content
