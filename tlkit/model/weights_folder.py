"""A folder of weights, as `tlkit fetch` packs it and as --weights takes it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from torch import Tensor

from tlkit.data.preprocessing import Preprocessing
from tlkit.errors import DataError
from tlkit.files.artifact import as_content_of
from tlkit.files.checksum import DIGITS, sha256_of_file
from tlkit.files.inputs import open_input
from tlkit.files.json_file import read_json
from tlkit.files.safetensors_file import content_with_checksum
from tlkit.files.timm_folder import CONFIG_FILE, WEIGHTS_FILE
from tlkit.model.backbones import BackboneName

DIGESTS_FILE = "SHA256SUMS"
"""Digests of the other files, as `sha256sum --check` reads them."""

TORCH_FILE, INDEX_SUFFIX = "pytorch_model.bin", ".index.json"
"""Names of other files of weights in a Hugging Face repository, and of the index of a file in parts."""

TORCH_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".pth.tar")

OTHER_FRAMEWORKS = {
    "tf_model.h5": "TensorFlow", "saved_model.pb": "TensorFlow", "flax_model.msgpack": "Flax",
    "flax_model.msgpack.index.json": "Flax", "model.onnx": "ONNX Runtime", "rust_model.ot": "Rust",
}  # fmt: skip
"""Files of weights that PyTorch does not read."""

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


def weights_files_in(folder: str) -> list[str]:
    """The files of weights in a folder: one, or the parts that an index lists. Digests are verified.

    The folder is one that fetch packed, a snapshot of a Hugging Face repository, or the cache folder of one. Raises
    DataError or MissingInputError.
    """
    snapshots = os.path.join(folder, "snapshots")
    if os.path.isdir(snapshots):
        revisions = sorted(os.listdir(snapshots))
        if len(revisions) != 1:
            problem = f"contains {len(revisions)} snapshots; expected one"
            raise DataError(folder, problem, f"Pass one of them, such as --weights {snapshots}/REVISION")
        folder = os.path.join(snapshots, revisions[0])
    verify_digests(folder)
    for name in (WEIGHTS_FILE, TORCH_FILE):
        if os.path.lexists(os.path.join(folder, name)):
            return [os.path.join(folder, name)]
        if os.path.lexists(os.path.join(folder, name + INDEX_SUFFIX)):
            return parts_of(os.path.join(folder, name + INDEX_SUFFIX))
    names = sorted(os.listdir(folder))
    foreign = next((found for name, found in OTHER_FRAMEWORKS.items() if name in names), None)
    expected = f"expected {WEIGHTS_FILE} or {TORCH_FILE}, or an index of parts ({WEIGHTS_FILE}{INDEX_SUFFIX})"
    if foreign is not None:
        raise DataError(folder, f"contains only weights for {foreign}; {expected}")
    files = [name for name in names if name.endswith(TORCH_SUFFIXES)]
    if len(files) == 1:
        return [os.path.join(folder, files[0])]
    listing = f"several files of weights ({', '.join(files[:10])})" if files else "no file of weights"
    advice = f"Pass one of them: --weights {os.path.join(folder, files[0])}" if files else ""
    raise DataError(folder, f"contains {listing}; {expected}", advice)


def parts_of(index: str) -> list[str]:
    """The files that an index lists, beside it. Raises DataError for an invalid index, MissingInputError."""
    content = read_json(index)
    with as_content_of(index, "index of weights"):
        names = sorted(set(content["weight_map"].values()))
        if (
            not all(names)
            or not names
            or any(os.path.basename(name) != name or name.endswith(INDEX_SUFFIX) for name in names)
        ):
            raise ValueError("it must name files of its own folder")
    return [os.path.join(os.path.dirname(index), name) for name in names]


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
