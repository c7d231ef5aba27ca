"""Files with a checksum: what goes in comes out, and anything else is refused with the right exit code."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tlkit.artifact import digest, load_safely, read_artifact, write_artifact
from tlkit.errors import DataError, MismatchError, MissingInputError, TlkitError, UnsafeError

KIND = "tlkit-test"


def content() -> dict[str, Any]:
    return {
        "tensors": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "c": torch.zeros(0, 4)},
        "half": torch.ones(3, dtype=torch.bfloat16),
        "plain": [1, 2.5, "näme", None, True, ("x", 1)],
    }


class Canary:
    """Pickled code that leaves a file behind when it runs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


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


def test_a_file_opens_as_plain_data_without_an_allow_list_of_ours(artifact: Path) -> None:
    allowed = torch.serialization.get_safe_globals()  # PyTorch puts some of its own classes there
    assert all(getattr(entry, "__module__", "").startswith("torch.") for entry in allowed)
    assert torch.load(artifact, weights_only=True)["plain"] == content()["plain"]


def test_only_plain_types_are_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not a plain type"):
        write_artifact(str(tmp_path / "file.pt"), KIND, {"path": tmp_path})
    assert list(tmp_path.iterdir()) == []


def test_damage_is_found(artifact: Path) -> None:
    whole = artifact.read_bytes()
    expected = digest(read_artifact(str(artifact), KIND))
    generator = random.Random(0)
    places = generator.sample(range(len(whole)), 150)
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << generator.randrange(8)
        artifact.write_bytes(damaged)
        assert_refused_or_harmless(artifact, expected)


def assert_refused_or_harmless(path: Path, expected: str) -> None:
    """Padding and time stamps of the zip container hold nothing, so there a flip may go unnoticed; elsewhere not."""
    try:
        found = read_artifact(str(path), KIND)
    except TlkitError as error:
        assert error.exit_code in (65, 77, 78)
    else:
        assert digest(found) == expected


def test_a_flip_in_a_tensor_is_refused(artifact: Path) -> None:
    whole = artifact.read_bytes()
    place = whole.index(torch.arange(6.0).numpy().tobytes())
    for offset in range(24):
        artifact.write_bytes(whole[: place + offset] + bytes([whole[place + offset] ^ 1]) + whole[place + offset + 1 :])
        with pytest.raises(DataError) as raised:
            read_artifact(str(artifact), KIND)
        assert raised.value.exit_code == 65


def test_a_file_that_is_cut_short_is_refused(artifact: Path) -> None:
    whole = artifact.read_bytes()
    for length in [0, 1, 2, 3, 4, 10, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1]:
        artifact.write_bytes(whole[:length])
        with pytest.raises(DataError) as raised:
            read_artifact(str(artifact), KIND)
        assert raised.value.exit_code == 65


def test_a_newer_version_asks_for_an_update(artifact: Path) -> None:
    values = torch.load(artifact, weights_only=True)
    torch.save(values | {"version": 2}, artifact)
    with pytest.raises(MismatchError, match="version 2") as raised:
        read_artifact(str(artifact), KIND)
    assert raised.value.exit_code == 78


@pytest.mark.parametrize(
    "values", [{}, {"format": "other"}, {"format": KIND}, {"format": KIND, "version": "1"}, [1], torch.ones(2)]
)
def test_a_torch_file_of_another_kind_is_refused(values: Any, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    torch.save(values, path)
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
