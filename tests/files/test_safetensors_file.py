"""A .safetensors file is known by its header, however long that is."""

from __future__ import annotations

from pathlib import Path

import torch

from tlkit.files.safetensors_file import is_safetensors
from tlkit.model.weights import read_weights_file

ENTRY = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


def test_no_length_of_a_header_is_taken_for_a_pickle(tmp_path: Path) -> None:
    """The length comes first, and as bytes some look like operations of a pickle: of ResNet-50's header, say."""
    path = tmp_path / "weights"
    for length in [*range(128, 1409), 0x9328]:
        path.write_bytes(length.to_bytes(8, "little") + ENTRY + b" " * (length - len(ENTRY) - 1) + b"}" + bytes(4))
        with open(path, "rb") as file:
            assert is_safetensors(file), length
        assert torch.equal(read_weights_file(str(path)).tensors["a"], torch.zeros(1))
