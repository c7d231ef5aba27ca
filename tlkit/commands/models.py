"""MODEL on a command line: a run folder, a checkpoint, model.pt or an exported file; found out which, and opened."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from tlkit.artifact import read_artifact
from tlkit.commands.assembly import assemble, require_same_backbone
from tlkit.errors import DataError, MissingInputError, UsageError
from tlkit.model.files import (
    CHECKPOINT_FORMAT,
    MODEL_FORMAT,
    LoadedModel,
    ModelDescription,
    load_network,
    model_from_content,
)
from tlkit.model.weights import read_safetensors
from tlkit.options import FinetuneOptions
from tlkit.output.exportable import DESCRIPTION_KEY
from tlkit.pt2_file import read_pt2
from tlkit.run_folder import RunFolder
from tlkit.storage import read_json


def open_model(path: str, weights: str | None = None) -> LoadedModel:
    """Open whatever MODEL names. weights: the backbone's file, for a checkpoint whose file has moved."""
    if not os.path.exists(path):
        raise MissingInputError(path, "no such file or folder")
    if os.path.isdir(path):
        return open_folder(path, weights)
    if path.endswith(".safetensors"):
        return open_safetensors(path)
    if path.endswith(".pt2"):
        return model_from_content(path, read_pt2(path))
    if path.endswith(".onnx"):
        raise UsageError(
            path,
            "is an ONNX file, which only predict and evaluate take",
            "Name the run folder, model.pt or .safetensors file that it was made from.",
        )
    content = read_artifact(path, MODEL_FORMAT, CHECKPOINT_FORMAT)
    if content["format"] == MODEL_FORMAT:
        return model_from_content(path, content)
    return open_checkpoint(path, content, weights)


def open_folder(path: str, weights: str | None) -> LoadedModel:
    """A run folder: its finished model, or its best checkpoint so far. Or a folder that export wrote for timm."""
    if os.path.isfile(os.path.join(path, "config.json")):
        return open_timm_folder(path)
    run = RunFolder(path)
    for file in (run.model_file, run.best_checkpoint):
        if os.path.exists(file):
            return open_model(file, weights)
    if os.path.exists(run.options_file):
        raise DataError(path, "has no model yet: no epoch is finished", f"Go on with: tlkit resume {path}")
    raise DataError(path, "is neither a run folder nor an exported model")


def open_checkpoint(path: str, checkpoint: dict[str, Any], weights: str | None) -> LoadedModel:
    """The model of a checkpoint: its head on the backbone's weights, found again and compared."""
    run = RunFolder.containing(path)
    stored = run.read_options()["resolved"] if run else checkpoint["options"]
    options = FinetuneOptions.from_dict(stored)
    if weights is not None:
        options = dataclasses.replace(options, weights=weights)
    classifier, description = assemble(options, tuple(checkpoint["classes"]))
    require_same_backbone(description, checkpoint, path)
    classifier.load_trainable_state(checkpoint["model_state_dict"])
    return LoadedModel(classifier.shipped(), description)


def open_safetensors(path: str) -> LoadedModel:
    """A .safetensors file that export wrote: it describes itself in its metadata."""
    from safetensors import safe_open

    state = read_safetensors(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    return described_model(path, metadata.get(DESCRIPTION_KEY), state)


def open_timm_folder(path: str) -> LoadedModel:
    """A folder that export wrote for timm: our description is part of its config.json."""
    description = json.dumps(read_config(path).get(DESCRIPTION_KEY))
    return described_model(path, description, read_safetensors(os.path.join(path, "model.safetensors")))


def is_exported_folder(path: str) -> bool:
    """Whether a folder holds an export to timm and nothing else."""
    only_ours = set(os.listdir(path)) <= {"config.json", "model.safetensors"}
    return only_ours and os.path.isfile(os.path.join(path, "config.json")) and DESCRIPTION_KEY in read_config(path)


def read_config(folder: str) -> dict[str, Any]:
    """config.json of a folder that export wrote for timm. Raises MissingInputError or DataError."""
    config = read_json(os.path.join(folder, "config.json"))
    if not isinstance(config, dict):
        raise DataError(folder, "has a config.json that is no description of a model")
    return config


def described_model(path: str, description: str | None, state: Mapping[str, Any]) -> LoadedModel:
    """Build what a description says and give it its weights."""
    try:
        known = ModelDescription.from_dict(json.loads(description or "null"))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            path, "does not say which classes and preprocessing it has; expected a file that tlkit exported"
        ) from error
    return LoadedModel(load_network(path, known, state), known)
