"""Files that are not weights for PyTorch are named as what they are, whatever their suffix."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tlkit.errors import DataError
from tlkit.files.other_formats import other_format
from tlkit.model.weights import read_weights_file


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return file.getvalue()


def arrays() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.ones(3))
    return file.getvalue()


FILES = {
    "an empty file": b"",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
    "a web page": b"\n <!DOCTYPE html><html><body>Quota exceeded</body></html>",
    "an XML document": b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>",
    "a JSON document": b'{"message": "rate limit"}',
    "a Keras or TensorFlow file": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "a TensorFlow Lite": struct.pack("<I", 28) + b"TFL3" + bytes(50),
    "a GGUF": b"GGUF" + bytes(50),
    "a NumPy array": b"\x93NUMPY\x01\x00" + bytes(50),
    "an archive of NumPy arrays": arrays(),
    "a Flax file": b"\x81\xa6params\x81\xa4conv\x81\xa6kernel\xc7\x00\x01",
    "a compressed file (gzip)": gzip.compress(b"weights"),
    "a Keras model": zipped("config.json", "metadata.json", "model.weights.h5"),
    "a TensorFlow SavedModel": zipped("m/saved_model.pb", "m/variables/variables.index"),
    "an archive with files of weights": zipped("resnet18.pth", "readme.txt"),
    "a zip archive without weights": zipped("a.txt"),
    "an ONNX model": b"\x08\x08\x12\x07pytorch" + bytes(60),
    "an image": b"\xff\xd8\xff\xe0" + bytes(60),
}


@pytest.mark.parametrize("description", FILES)
@pytest.mark.parametrize("suffix", ["pth", "safetensors", "bin", "ckpt"])
def test_a_file_of_another_kind_is_named(description: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(FILES[description])
    with pytest.raises(DataError) as raised:
        read_weights_file(str(path))
    assert raised.value.problem.startswith(f"is {description}")
    assert raised.value.hint


@pytest.mark.parametrize(
    "name", ["saved_model.pb", "model.ckpt.index", "model.ckpt-9.data-00000-of-00001", "w.pdparams"]
)
def test_a_file_of_another_framework_is_named_by_its_suffix(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x0a\x03abc" + bytes(40))
    with pytest.raises(DataError, match=r"TensorFlow|PaddlePaddle"):
        read_weights_file(str(tmp_path / name))


@pytest.mark.parametrize("count", range(1, 40))
def test_no_file_of_weights_is_taken_for_another_format(count: int, tmp_path: Path) -> None:
    """The first bytes of a .safetensors file are the length of its header, which can look like any other format."""
    save_file({"a" * count: torch.ones(2), "b": torch.ones(1)}, tmp_path / "a.safetensors")
    torch.save({"a" * count: torch.ones(2)}, tmp_path / "a.pth")
    torch.save({"a" * count: torch.ones(2)}, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "a.pth", "b.pth"):
        with open(tmp_path / name, "rb") as file:
            assert other_format(file, name) is None
