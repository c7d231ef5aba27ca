"""A folder exported for timm: model.safetensors holds the description and the checksum of config.json."""

from __future__ import annotations

import os
from collections.abc import Mapping

from tlkit.errors import DataError
from tlkit.files.checksum import sha256_of, sha256_with
from tlkit.files.inputs import open_input
from tlkit.files.safetensors_file import SafetensorsFile, read_safetensors

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
CONFIG_KEY = "tlkit_config_sha256"


def with_config(metadata: Mapping[str, str], config: bytes) -> dict[str, str]:
    """Metadata of the weights with the checksum of this config.json."""
    return {**metadata, CONFIG_KEY: sha256_of(config).decode()}


def read_timm_folder(folder: str) -> SafetensorsFile:
    """Read the weights of a folder. config.json is not used, but its checksum is verified.

    Raises MissingInputError, DataError or UnsafeError.
    """
    weights = read_safetensors(os.path.join(folder, WEIGHTS_FILE))
    config = os.path.join(folder, CONFIG_FILE)
    with open_input(config) as file:
        digits = sha256_with(file, 0, 0, b"").decode()
    if weights.has_valid_checksum and digits != weights.metadata.get(CONFIG_KEY):
        raise DataError(config, "is damaged, or was changed since tlkit wrote it")
    return weights
