"""A folder that export wrote for timm: the weights describe themselves, and vouch for the config.json beside them."""

from __future__ import annotations

import os
from collections.abc import Mapping

from tlkit.errors import DataError
from tlkit.files.inputs import open_input
from tlkit.files.safetensors_file import SafetensorsFile, read_safetensors
from tlkit.files.seal import sha256_of, sha256_with

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


CONFIG_KEY = "tlkit_config_sha256"


def with_config(metadata: Mapping[str, str], config: bytes) -> dict[str, str]:
    """The metadata of weights that vouch for a config.json with this content."""
    return {**metadata, CONFIG_KEY: sha256_of(config).decode()}


def read_timm_folder(folder: str) -> SafetensorsFile:
    """The weights of a folder. tlkit takes nothing from its config.json, which may not have changed all the same.

    Raises MissingInputError, DataError or UnsafeError.
    """
    weights = read_safetensors(os.path.join(folder, WEIGHTS_FILE))
    config = os.path.join(folder, CONFIG_FILE)
    with open_input(config) as file:
        digits = sha256_with(file, 0, 0, b"").decode()
    if weights.sealed and digits != weights.metadata.get(CONFIG_KEY):
        raise DataError(config, "is damaged, or was changed since tlkit wrote it")
    return weights
