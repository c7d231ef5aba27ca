"""The reader that skips Python objects imports nothing, calls nothing, and changes nothing."""

from __future__ import annotations

import collections
import contextlib
import io
import random
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from tests.payloads import FORMS, SUFFIXES, Canary, saved, zipped
from tlkit.errors import DataError, TlkitError, UnsafeError
from tlkit.files import inert
from tlkit.files.artifact import open_torch_file
from tlkit.files.inert import read_inert
from tlkit.model.weights import read_weights_file


def read(pickled: bytes, folder: Path) -> object:
    """The content of an archive with this pickle, read without the inspection that precedes it."""
    path = folder / "a.pth"
    path.write_bytes(zipped({"a/data.pkl": pickled, "a/byteorder": b"little", "a/data/0": bytes(64)}))
    with open(path, "rb") as file:
        return read_inert(str(path), file, True)[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_canary_is_heard(form: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(FORMS[form](Canary(tmp_path / "it ran")))
    try:
        read_weights_file(str(path))
    except TlkitError as error:
        assert isinstance(error, (UnsafeError, DataError))
    assert not (tmp_path / "it ran").exists()


def call(module: str, name: str, arguments: str) -> bytes:
    """A pickle that calls a global with arguments."""
    return f"c{module}\n{name}\n({arguments}tR.".encode()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "mkdir"), ("posix", "mkdir"), ("builtins", "exec"), ("torch", "load"), ("torch.hub", "load"),
        ("torch", "float32"), ("tlkit.files.inert", "Rebuild"), ("pickle", "loads"), ("subprocess", "Popen"),
    ],
)  # fmt: skip
def test_a_global_becomes_inert(module: str, name: str, tmp_path: Path) -> None:
    target = tmp_path / "it ran"
    try:
        content = read(call(module, name, f"V{target}\n"), tmp_path)
    except DataError:
        return
    assert content == {} and not target.exists()


def test_no_module_is_imported(tmp_path: Path) -> None:
    (tmp_path / "canary_module.py").write_text("raise SystemExit('imported')")
    sys.path.insert(0, str(tmp_path))
    try:
        assert read(call("canary_module", "Thing", ""), tmp_path) == {}
        assert "canary_module" not in sys.modules
    finally:
        sys.path.remove(str(tmp_path))


# GLOBAL of a name that is rebuilt, then BUILD with attributes: a plain unpickler would set them on the class itself.
CHANGES = {
    name: f"c{module}\n{name}\n(dVfake\nI1\nsb.".encode()
    for module, name in (
        ("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"), ("torch", "FloatStorage"),
        ("torch", "float32"), ("torch", "Size"), ("torch", "Tensor"), ("argparse", "Namespace"), ("builtins", "set"),
    )
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_nothing_can_be_changed(name: str, tmp_path: Path) -> None:
    with contextlib.suppress(DataError):
        read(CHANGES[name], tmp_path)
    for value in (
        collections.OrderedDict,
        torch._utils._rebuild_tensor_v2,
        torch.FloatStorage,
        torch.Size,
        torch.Tensor,
        set,
    ):
        assert not hasattr(value, "fake")
    assert not any(hasattr(value, "fake") for value in (inert.Inert, inert.Plain, inert.Rebuild, inert.tensor_of))


def test_a_tensor_outside_its_storage_is_refused_or_left_out(tmp_path: Path) -> None:
    beginning = b"ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI16\ntQ"
    for size, stride in ((b"I99", b"I1"), (b"I4611686018427387904", b"I1")):
        pickled = beginning + b"I0\n(" + size + b"\nt(" + stride + b"\ntI00\n}tR."
        with pytest.raises(DataError):
            read(pickled, tmp_path)
    expanded = beginning + b"I0\n(I1000000000000\nt(I0\ntI00\n}tR."
    assert read(expanded, tmp_path) is None
    assert torch.equal(read(beginning + b"I4\n(I12\nt(I1\ntI00\n}tR.", tmp_path), torch.zeros(12))  # type: ignore[arg-type]


@pytest.mark.parametrize("operation", [b"r\xff\xff\xff\x7f", b"p2000000000\n"])
def test_a_pickle_cannot_ask_for_a_memo_of_gigabytes(operation: bytes, tmp_path: Path) -> None:
    pickled = b"\x80\x02cargparse\nNamespace\n" + operation + b"."
    path = tmp_path / "a.pth"
    path.write_bytes(zipped({"a/data.pkl": pickled, "a/byteorder": b"little"}))
    start = time.process_time()
    with pytest.raises(UnsafeError):
        open_torch_file(str(path), skip_objects=True)
    assert time.process_time() - start < 1


def test_content_that_contains_itself_is_refused(tmp_path: Path) -> None:
    value: list[object] = [Canary(tmp_path / "it ran")]
    value.append(value)
    (tmp_path / "a.pth").write_bytes(saved({"x": value}))
    with pytest.raises(DataError):
        open_torch_file(str(tmp_path / "a.pth"), skip_objects=True)


def test_mutated_pickles_end_in_an_error_or_in_plain_content(tmp_path: Path) -> None:
    pickled = io.BytesIO()
    torch.save({"a": torch.ones(4), "x": Canary(tmp_path / "it ran")}, pickled)
    with zipfile.ZipFile(pickled) as archive:
        original = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    randomness = random.Random(0)
    outcomes = collections.Counter[str]()
    for _ in range(400):
        changed = bytearray(original)
        for _ in range(randomness.randint(1, 4)):
            changed[randomness.randrange(len(changed))] = randomness.randrange(256)
        path = tmp_path / "m.pth"
        path.write_bytes(zipped({"a/data.pkl": bytes(changed), "a/data/0": bytes(16)}))
        try:
            open_torch_file(str(path), skip_objects=True)
            outcomes["read"] += 1
        except TlkitError:
            outcomes["refused"] += 1
    assert outcomes["read"] and outcomes["refused"] and not (tmp_path / "it ran").exists()
