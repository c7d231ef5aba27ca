"""A folder of weights, as `tlkit fetch` packs it and as --weights takes it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from torch import Tensor

from tlkit.data.preprocessing import Preprocessing
from tlkit.errors import DataError
from tlkit.files.artifact import as_content_of
from tlkit.files.checksum import DIGITS, sha256_with
from tlkit.files.inputs import open_input
from tlkit.files.json_file import read_json
from tlkit.files.safetensors_file import content_with_checksum
from tlkit.files.timm_folder import CONFIG_FILE, WEIGHTS_FILE
from tlkit.model.backbones import BackboneName

DIGESTS_FILE = "SHA256SUMS"
"""Digests of the other files, as `sha256sum --check` reads them."""

CONFIG_KEY = "tlkit_weights"
"""Key in config.json of the description that fetch writes."""


def write_folder(
    folder: str, backbone: BackboneName, state: Mapping[str, Tensor], preprocessing: Preprocessing
) -> None:
    """Create a folder with weights, the preprocessing that belongs to them, and digests."""
    config = {CONFIG_KEY: {"backbone": str(backbone), "preprocessing": preprocessing.to_dict()}}
    copies = {name: tensor.clone() for name, tensor in state.items()}  # the format has no tensors that share memory
    contents = {
        WEIGHTS_FILE: content_with_checksum(copies, {}),
        CONFIG_FILE: f"{json.dumps(config, indent=2)}\n".encode(),
    }
    os.mkdir(folder)
    for name, content in contents.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
    lines = [f"{sha256_of_file(os.path.join(folder, name))}  {name}\n" for name in contents]
    with open(os.path.join(folder, DIGESTS_FILE), "w", encoding="ascii") as file:
        file.writelines(lines)


def weights_file_in(folder: str) -> str:
    """The file of weights in a folder, digests verified. Raises DataError."""
    path = os.path.join(folder, WEIGHTS_FILE)
    if not os.path.isfile(path):
        raise DataError(folder, f"contains no {WEIGHTS_FILE}; expected a file of weights, or a folder with that file")
    verify_digests(folder)
    return path


def verify_digests(folder: str) -> None:
    """Compare the files of a folder with its digests, if it has any. Raises DataError or MissingInputError."""
    path = os.path.join(folder, DIGESTS_FILE)
    if not os.path.exists(path):
        return
    with open_input(path) as digests:
        lines = digests.read(1 << 20).decode("utf-8", "replace").splitlines()
    for line in lines:
        digest, name = line[:DIGITS], line[DIGITS + 2 :]
        if os.path.basename(name) != name or not name:
            raise DataError(path, f"has an invalid line: {line[:80]!r}")
        if sha256_of_file(os.path.join(folder, name)) != digest:
            problem = f"is damaged, or was changed: its digest differs from that in {DIGESTS_FILE}"
            raise DataError(os.path.join(folder, name), problem, "Copy the folder again.")


def sha256_of_file(path: str) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    with open_input(path) as file:
        return sha256_with(file, 0, 0, b"").decode()


def preprocessing_in(path: str) -> Preprocessing | None:
    """The preprocessing that `tlkit fetch` packed with these weights; None for other folders, and for files."""
    config = os.path.join(path, CONFIG_FILE)
    if not os.path.isfile(config):
        return None
    content = read_json(config)
    if not isinstance(content, dict) or CONFIG_KEY not in content:
        return None
    with as_content_of(config, "description of weights"):
        return Preprocessing.from_dict(content[CONFIG_KEY]["preprocessing"])
