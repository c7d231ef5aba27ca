"""Files that claim more than they hold: refused in a line, before any memory is taken for it."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from tests.artifacts import as_checkpoint, as_labeller, as_model, as_segment, as_weights
from tests.memory import peak_growth
from tests.payloads import saved, zipped
from tlkit.features.segments import INDEX
from tlkit.files.artifact import read_artifact, write_artifact
from tlkit.files.checksum import Hashing, write_checksummed_archive
from tlkit.files.description import metadata_of
from tlkit.files.onnx_file import checksum_of, read_onnx
from tlkit.files.safetensors_file import content_with_checksum

HUGE = 10**12
MEGABYTE = 1_000_000


class Claim:
    """Pickled as a tensor of so many numbers."""

    def __init__(self, numbers: int) -> None:
        self.numbers = numbers

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (STORAGE, 0, (self.numbers,), (1,), False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments  # type: ignore[attr-defined]


class Pickler(pickle.Pickler):
    """Pickles STORAGE as torch does a storage of so many numbers."""

    def persistent_id(self, value: Any) -> object:
        return ("storage", torch.FloatStorage, "0", "cpu", HUGE) if value is STORAGE else None


STORAGE = object()


def claiming_pickle() -> bytes:
    file = io.BytesIO()
    Pickler(file, 2).dump({"conv1.weight": Claim(HUGE)})
    return file.getvalue()


def large_storage() -> bytes:
    """The archive has 4 bytes of it."""
    return zipped(
        {"a/data.pkl": claiming_pickle(), "a/version": b"3\n", "a/byteorder": b"little", "a/data/0": bytes(4)}
    )


def large_storage_before_zip() -> bytes:
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    head = b"".join(pickle.dumps(part, 2) for part in parts)
    return head + claiming_pickle() + pickle.dumps(["0"], 2) + struct.pack("<q", HUGE) + bytes(4)


class Bytes:
    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (3_000_000_000,)


def doubled(levels: int = 60) -> list[Any]:
    """Lists of lists: 2**60 texts, in a few hundred bytes."""
    value: list[Any] = ["x"]
    for _ in range(levels):
        value = [value, value]
    return value


def nested(depth: int = 20_000) -> bytes:
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


def overlapping(entries: int = 1000) -> bytes:
    """Every entry is the same million bytes under another name."""
    content = bytes(MEGABYTE)
    plain = zipped({"a/data.pkl": pickle.dumps({}, 2), "a/0": content})
    with zipfile.ZipFile(io.BytesIO(plain)) as archive:
        start, entry = archive.start_dir, archive.getinfo("a/0")
    record = struct.pack(
        "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, entry.CRC, MEGABYTE, MEGABYTE, 3, 0, 0, 0, 0, 0,
        entry.header_offset,
    )  # fmt: skip
    directory = (record + b"a/0") * entries
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, entries, entries, len(directory), start, 0)
    return plain[:start] + directory + end


def repeated() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for _ in range(2):
            archive.writestr("a/data.pkl", pickle.dumps({"a": 1}, 2))
    return file.getvalue()


def headed(header: bytes, data: bytes = b"") -> bytes:
    """A safetensors file with this header."""
    return len(header).to_bytes(8, "little") + header + data


def many_empty_tensors(size: int) -> bytes:
    """A sound header of that size."""
    entry = '"{:07d}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    count = size // (len(entry.format(0)) + 1)
    return headed(("{" + ",".join(entry.format(number) for number in range(count)) + "}").encode())


TORCH_CLAIMS: dict[str, Callable[[], bytes]] = {
    "one number, repeated": lambda: saved({"conv1.weight": torch.ones(1).expand(HUGE)}),
    "a storage": large_storage,
    "a storage, before zip": large_storage_before_zip,
    "bytes": lambda: saved({"conv1.weight": torch.ones(1), "x": Bytes()}),
    "doubled lists": lambda: saved({"state_dict": doubled()}),
    "deep lists": lambda: zipped({"a/data.pkl": nested(), "a/version": b"3\n"}),
    "deep lists, bare": nested,
    "compressed": lambda: zipped({"a/data.pkl": bytes(200 * MEGABYTE)}, zipfile.ZIP_DEFLATED),
    "overlapping": overlapping,
    "repeated": repeated,
    "a header of 100 MB": lambda: headed(b"{" + b" " * (100 * MEGABYTE) + b"}"),
    "lists in a header": lambda: headed(b'{"a":' + b"[" * 1_500_000 + b"]" * 1_400_000 + b"}"),
    "objects in a header": lambda: headed(b'{"a":[' + b"{}," * 990_000 + b"{}]}"),
    "a tensor in a header": lambda: headed(
        b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}', bytes(4)
    ),
}


def assert_refused(open_file: Callable[[str], object], path: Path, others: tuple[str, ...] = ()) -> None:
    """In our words, and within bounds."""
    grown, outcome = peak_growth(lambda: open_file(str(path)))
    assert outcome.split()[0] in ("DataError", "UnsafeError", "MismatchError", *others), outcome
    assert len(outcome) < 1000
    assert grown < 2 * path.stat().st_size + 50 * MEGABYTE, f"{grown / 1e6:.0f} MB: {outcome}"


@pytest.mark.parametrize("claim", TORCH_CLAIMS)
def test_files_of_weights(claim: str, artifacts: Path, tmp_path: Path) -> None:
    as_model(str(artifacts / "run"))  # all that is imported on the way
    path = tmp_path / ("weights.safetensors" if "header" in claim else "weights.pth")
    path.write_bytes(TORCH_CLAIMS[claim]())
    skipped = ("done",) if claim == "bytes" else ()  # weights are read, the object beside them is not made
    assert_refused(as_weights, path, skipped)
    assert_refused(as_model, path)


def changed(values: dict[str, Any], where: str, what: Any) -> dict[str, Any]:
    """With another value at a place such as head.hidden."""
    values = copy.deepcopy(values)
    *parents, last = where.split(".")
    inner = values
    for name in parents:
        inner = inner[name]
    inner[last] = what
    return values


CLAIMS: list[tuple[str, Any]] = [
    ("backbone.image_size", 10**9), ("backbone.image_size", -1), ("backbone.image_size", 1.5),
    ("backbone.classes", 10**9), ("backbone.classes", 0), ("backbone.name", "vit_giant_patch14_dinov2"),
    ("backbone.name", "hf-hub:timm/resnet18"), ("backbone.name", "../resnet18"), ("backbone.name", 7),
    ("backbone.source", "os"), ("backbone.source", "timm.models"), ("backbone", None),
    ("head", {"kind": "mlp", "hidden": 10**9, "trainable": 1}), ("head.kind", "code"), ("head.trainable", "x"),
    ("classes", []), ("classes", ["a", "a", "a"]),
    ("classes", [["a"], "b", "c"]), ("classes", "abc"), ("classes", {"a": 1}), ("classes", None),
    ("classes", ["a", "b"]),
    ("preprocessing.image_size", [10**6, 10**6]), ("preprocessing.image_size", [0, 0]),
    ("preprocessing.image_size", 160), ("preprocessing.resize", [10**9, 10**9]), ("preprocessing.resize", [0, 0]),
    ("preprocessing.mean", [float("nan")] * 3), ("preprocessing.std", [1.0]), ("preprocessing.crop_mode", "x" * 10**6),
    ("preprocessing.interpolation", "__class__"), ("preprocessing", {}), ("preprocessing.more", 1),
]  # fmt: skip


@pytest.mark.parametrize(("where", "what"), CLAIMS, ids=lambda value: str(value)[:30])
def test_descriptions(where: str, what: Any, artifacts: Path, tmp_path: Path) -> None:
    """In each kind of file that describes itself, sealed as anyone can seal it."""
    content = read_artifact(str(artifacts / "run" / "model.pt"), "tlkit-model")
    state = content["model_state_dict"]
    description = {key: content[key] for key in ("classes", "preprocessing", "backbone", "head")}
    write_artifact(str(tmp_path / "model.pt"), "tlkit-model", changed(content, where, what))
    metadata = metadata_of(changed(description, where, what))
    (tmp_path / "model.safetensors").write_bytes(content_with_checksum(state, metadata))
    for name in ("model.pt", "model.safetensors"):
        as_model(str(artifacts / "run"))
        assert_refused(as_model, tmp_path / name)


@pytest.mark.parametrize("where", ["backbone", "hidden", "seed", "weights", "head", "image_size", "val", "epochs"])
def test_options_in_a_checkpoint(where: str, artifacts: Path, tmp_path: Path) -> None:
    content = read_artifact(str(artifacts / "run" / "checkpoints" / "last.pt"), "tlkit-checkpoint")
    bad = {"hidden": 10**9, "seed": -1, "backbone": "hf-hub:x/y", "head": "code", "epochs": True, "val": [1]}
    content["options"] |= {"head": "mlp" if where == "hidden" else "linear", where: bad.get(where, 10**9)}
    write_artifact(str(tmp_path / "ckpt.pt"), "tlkit-checkpoint", content)
    as_model(str(artifacts / "run"))
    grown, outcome = peak_growth(lambda: as_model(str(tmp_path / "ckpt.pt")))
    assert outcome.split()[0] in ("DataError", "MismatchError", "UsageError"), outcome
    assert grown < 60 * MEGABYTE


def test_onnx_files(artifacts: Path, tmp_path: Path) -> None:
    sound = read_onnx(str(artifacts / "model.onnx")).content[: -len(checksum_of(b""))]
    path = tmp_path / "model.onnx"
    contents = [
        b"\x3a" + b"\xff" * 9 + b"\x01",  # a field of 2**64 bytes
        sound.replace(b'"image_size": [160, 160]', b'"image_size": [16000000]'[:24].ljust(24)),
        sound.replace(b'"classes": ["blue", "green", "red"]', b'"classes": ["blue", "blue", "red"] '),
    ]
    for content in contents:
        path.write_bytes(content + checksum_of(content))
        assert_refused(as_labeller, path)


def rewritten(source: Path, target: Path, changes: dict[str, Callable[[bytes], bytes]]) -> None:
    """A .pt2 file with other content for files whose names end so, sealed again."""

    def write(file: Any) -> None:
        inner = io.BytesIO()
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(inner, "w") as new:
            for name in old.namelist():
                change = next((change for end, change in changes.items() if name.endswith(end)), bytes)
                new.writestr(name, change(old.read(name)))
        file.write(inner.getvalue())

    with open(target, "wb") as file:
        write_checksummed_archive(file, write)


def test_pt2_files(artifacts: Path, tmp_path: Path) -> None:
    def with_meta(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
        def changed_config(content: bytes) -> bytes:
            config = json.loads(content)
            for entry in config["config"].values():
                change(entry["tensor_meta"])
            return json.dumps(config).encode()

        return changed_config

    config, path = "model_weights_config.json", tmp_path / "model.pt2"
    changes: list[dict[str, Callable[[bytes], bytes]]] = [
        {config: with_meta(lambda meta: meta.update(sizes=[{"as_int": HUGE}], strides=[{"as_int": 0}]))},
        {config: with_meta(lambda meta: meta.update(sizes=[{"as_int": -1}]))},
        {config: with_meta(lambda meta: meta.update(storage_offset={"as_int": HUGE}))},
        {config: with_meta(lambda meta: meta.update(dtype=99))},
        {config: lambda content: b"[" * 200_000},
        {config: lambda content: content.replace(b'"config": {', b'"config": {"x": {"use_pickle": false}, ')},
        {"tlkit.json": lambda content: b"[" * 200_000},
        {"tlkit.json": lambda content: content.replace(b"160", b"1" * 5000)},
        {"weight_0": lambda content: b""},
        {config: with_meta(lambda meta: meta.update(sizes=[{"as_int": HUGE}])), "weight_0": lambda content: b""},
    ]

    def many_of_one(content: bytes) -> bytes:
        config = json.loads(content)
        largest = max(
            config["config"].values(), key=lambda e: math.prod(n["as_int"] for n in e["tensor_meta"]["sizes"])
        )
        config["config"] |= {f"x{number}": largest for number in range(2000)}
        return json.dumps(config).encode()

    changes.append({config: many_of_one})
    as_model(str(artifacts / "run"))
    rewritten(artifacts / "model.pt2", path, {})
    as_model(str(path))
    for change in changes:
        rewritten(artifacts / "model.pt2", path, change)
        assert_refused(as_model, path)


def test_checkpoints_that_claim_more_values(artifacts: Path, tmp_path: Path) -> None:
    content = read_artifact(str(artifacts / "run" / "checkpoints" / "last.pt"), "tlkit-checkpoint")
    path = tmp_path / "ckpt.pt"
    cycle: list[Any] = []
    cycle.append(cycle)
    for value in (doubled(), cycle):
        with open(path, "wb") as file:
            whole = {**content, "progress": value}
            write_checksummed_archive(file, lambda sealed, whole=whole: torch.save(whole, sealed))  # type: ignore[misc]
        for open_file in (as_checkpoint, as_model):
            assert_refused(open_file, path)


@pytest.mark.parametrize("shape", [(HUGE,), (40, HUGE), (-1,), (40, -3), (2**63,)])
def test_segments(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.segment"
    with open(path, "wb") as file:
        hashing = Hashing(file)
        for descr, dimensions in ((INDEX.descr, shape[:1]), ("<f4", shape)):
            header = {"descr": descr, "fortran_order": False, "shape": dimensions}
            np.lib.format.write_array_header_1_0(hashing, header)  # type: ignore[arg-type]
        file.write(hashing.sha256.hexdigest().encode())
    assert_refused(as_segment, path)


def test_many_tensors_are_still_read(artifacts: Path, tmp_path: Path) -> None:
    as_model(str(artifacts / "run"))
    (tmp_path / "a.safetensors").write_bytes(many_empty_tensors(2_900_000))
    grown, outcome = peak_growth(lambda: as_weights(str(tmp_path / "a.safetensors")))
    assert outcome == "done" and grown < 100 * MEGABYTE


def test_a_large_header_is_still_read(tmp_path: Path) -> None:
    """Fifty thousand classes with long names."""
    metadata = metadata_of({"classes": [f"a class with quite a long name, {number}" for number in range(50_000)]})
    (tmp_path / "a.safetensors").write_bytes(content_with_checksum({"a": torch.ones(3)}, metadata))
    assert torch.equal(as_weights(str(tmp_path / "a.safetensors")).tensors["a"], torch.ones(3))  # type: ignore[attr-defined]
    (tmp_path / "b.safetensors").write_bytes(save({"a": torch.ones(3)}))
    assert as_weights(str(tmp_path / "b.safetensors"))
