"""Files with a checksum: what goes in comes out, and anything else is refused with the right exit code."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.payloads import Canary
from tlkit.errors import DataError, MismatchError, MissingInputError, UnsafeError
from tlkit.files.artifact import digest, load_safely, read_artifact, write_artifact
from tlkit.files.checksum import write_checksummed_archive

KIND = "tlkit-test"


def content() -> dict[str, Any]:
    return {
        "tensors": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "c": torch.zeros(0, 4)},
        "half": torch.ones(3, dtype=torch.bfloat16),
        "plain": [1, 2.5, "näme", None, True, ("x", 1)],
    }


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "file.pt"
    write_artifact(str(path), KIND, content())
    return path


def test_what_is_written_is_read(artifact: Path) -> None:
    found = read_artifact(str(artifact), "other", KIND)
    assert found.pop("format") == KIND
    assert found.pop("version") == 1
    assert digest(found) == digest(content())


def test_only_plain_types_are_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not a plain type"):
        write_artifact(str(tmp_path / "file.pt"), KIND, {"path": tmp_path})
    assert list(tmp_path.iterdir()) == []


def test_a_flip_in_any_byte_is_refused(artifact: Path) -> None:
    """Also where the container holds nothing: padding, time stamps, the seal itself."""
    whole = artifact.read_bytes()
    for place in [*range(0, len(whole) - 200, 3), *range(len(whole) - 200, len(whole))]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        artifact.write_bytes(damaged)
        with pytest.raises((DataError, UnsafeError)):
            read_artifact(str(artifact), KIND)


def test_a_file_that_is_cut_short_is_refused(artifact: Path) -> None:
    whole = artifact.read_bytes()
    for length in [0, 1, 2, 3, 4, 10, 100, len(whole) // 2, *range(len(whole) - 200, len(whole))]:
        artifact.write_bytes(whole[:length])
        with pytest.raises(DataError) as raised:
            read_artifact(str(artifact), KIND)
        assert raised.value.exit_code == 65


def test_a_newer_version_asks_for_an_update(artifact: Path) -> None:
    write_artifact(str(artifact), KIND, {"version": 2})
    with pytest.raises(MismatchError, match="version 2, but this tlkit reads up to 1") as raised:
        read_artifact(str(artifact), KIND)
    assert raised.value.exit_code == 78


def test_what_says_that_tlkit_wrote_it_must_have_its_seal(artifact: Path) -> None:
    for comment in (b"", b"another comment"):
        torch.save(torch.load(artifact, weights_only=True), artifact)
        with zipfile.ZipFile(artifact, "a") as archive:
            archive.comment = comment
        for read in (load_safely, lambda path: read_artifact(path, KIND)):
            with pytest.raises(DataError, match="checksum"):
                read(str(artifact))


def test_the_seal_is_the_comment_of_the_archive(artifact: Path) -> None:
    sealed = artifact.read_bytes()
    with zipfile.ZipFile(artifact) as archive:
        comment = archive.comment
    before = sealed[: -len(comment) - 2] + bytes(2)
    assert comment.decode() == "tlkit-sha256:" + hashlib.sha256(before).hexdigest()
    with open(artifact, "rb") as file:
        assert torch.equal(torch.load(file, weights_only=True, mmap=False)["half"], content()["half"])


def test_a_strangers_archive_is_checked_by_its_own_checksums(tmp_path: Path) -> None:
    """torch looks at none of them."""
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.arange(1000.0)}, path)
    assert load_safely(str(path))["a"][-1] == 999
    whole = bytearray(path.read_bytes())
    whole[whole.index(torch.arange(1000.0).numpy().tobytes()) + 1234] ^= 4
    path.write_bytes(whole)
    with pytest.raises(DataError, match="does not match its checksum"):
        load_safely(str(path))


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_of_all_usual_kinds_are_opened(zipped: bool, tmp_path: Path) -> None:
    """Of strangers, also those written before torch files were archives."""
    values = {
        "ordered": OrderedDict(a=torch.ones(2, dtype=torch.float16)), "parameter": torch.nn.Parameter(torch.ones(3)),
        "shared": [torch.arange(4.0)] * 2, "view": torch.arange(6.0)[2:4], "turned": torch.ones(2, 3).t(),
        "size": torch.Size([1, 2]), "dtype": torch.bfloat16, "device": torch.device("cpu"), "set": {1, 2},
        "text": "x", "bytes": b"x", "double": torch.zeros(2, dtype=torch.float64), "flags": torch.tensor([True]),
    }  # fmt: skip
    if zipped:  # newer than the other form
        values |= {"float8": torch.ones(2).to(torch.float8_e4m3fn), "uint16": torch.zeros(2, dtype=torch.uint16)}
    torch.save(values, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert load_safely(str(tmp_path / "a.pth")).keys() == values.keys()


@pytest.mark.parametrize(
    "values", [{}, {"format": "other"}, {"format": KIND}, {"format": KIND, "version": "1"}, [1], torch.ones(2)]
)
@pytest.mark.parametrize("seal", [True, False])
def test_a_torch_file_of_another_kind_is_refused(seal: bool, values: Any, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    with open(path, "wb") as file:
        write_checksummed_archive(file, lambda sealed: torch.save(values, sealed)) if seal else torch.save(values, file)
    with pytest.raises(DataError):
        read_artifact(str(path), KIND)


@pytest.mark.parametrize("how", ["torch", "torch, old", "pickle", "pickle 0"])
def test_code_is_refused_and_never_run(how: str, tmp_path: Path) -> None:
    path, canary = tmp_path / "file.pt", tmp_path / "it ran"
    value = {"format": KIND, "version": 1, "canary": Canary(canary)}
    if how.startswith("torch"):
        torch.save(value, path, _use_new_zipfile_serialization=how == "torch")
    else:
        path.write_bytes(pickle.dumps(value, protocol=0 if how.endswith("0") else None))
    with pytest.raises(UnsafeError) as raised:
        read_artifact(str(path), KIND)
    assert raised.value.exit_code == 77
    assert not canary.exists()


def test_what_is_no_torch_file(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("Good morning\n")
    for path, kind in [(text, DataError), (tmp_path, DataError), (tmp_path / "nothing.pt", MissingInputError)]:
        with pytest.raises(kind):
            load_safely(str(path))


def test_the_digest_of_known_values_stays() -> None:
    assert digest(content()) == digest(content())
    assert digest({"a": torch.arange(4).reshape(2, 2).t()}) == digest({"a": torch.tensor([[0, 2], [1, 3]])})


def test_the_digest_tells_types_shapes_and_bytes_apart() -> None:
    values = [
        torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.int32),
        torch.tensor([0.0, 0.0, 0.0, -0.0]), [0.0] * 4, (0.0,) * 4, [0] * 4, 0, 0.0, False, None, "0", "None",
        {"a": 1, "b": 2}, {"a": 2, "b": 1}, ["a", 1, "b", 2], [[1], 2], [1, [2]], ["ab"], ["a", "b"],
    ]  # fmt: skip
    assert len({digest(value) for value in values}) == len(values)
