"""An .onnx file is judged before a runtime sees it: whole, ours, and leading to no other file."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.descriptor import Descriptor
from onnx import TensorProto, helper, numpy_helper

from tlkit.errors import DataError, MismatchError, MissingInputError, TlkitError, UnsafeError
from tlkit.files.description import DESCRIPTION_KEY, VERSION_KEY
from tlkit.files.onnx_file import PARTS, checksum_of, read_onnx

DESCRIPTION = {"classes": ["location", "ἄ\n\t\\"], "more": [1, 2.5, None]}


def small_model(weights: TensorProto | None = None) -> onnx.ModelProto:
    """A graph with tensors in the places where a graph can have them."""
    weights = weights or numpy_helper.from_array(np.arange(6, dtype=np.float32), "weights")
    inner = helper.make_graph([helper.make_node("Identity", ["weights"], ["y"])], "inner", [], [], [weights])
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones(3, np.float32)))
    branch = helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner)
    return helper.make_model(helper.make_graph([constant, branch], "outer", [], []))


def described(model: onnx.ModelProto, metadata: Mapping[str, str] | None = None) -> bytes:
    """The model's bytes with a description."""
    metadata = metadata or {DESCRIPTION_KEY: json.dumps(DESCRIPTION), VERSION_KEY: "1"}
    helper.set_model_props(model, dict(metadata))
    content: bytes = model.SerializeToString()
    return content


def sealed(content: bytes) -> bytes:
    return content + checksum_of(content)


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_the_seal_leaves_a_file_that_onnx_reads(tmp_path: Path) -> None:
    content = sealed(described(small_model()))
    assert read_onnx(write(tmp_path / "m.onnx", content)).description == DESCRIPTION
    properties = {entry.key: entry.value for entry in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert json.loads(properties["tlkit"]) == DESCRIPTION
    assert len(properties["tlkit_sha256"]) == 64


def test_a_long_description(tmp_path: Path) -> None:
    long = {"classes": [f"class {number} ✓" for number in range(20_000)]}
    content = sealed(described(small_model(), {DESCRIPTION_KEY: json.dumps(long), VERSION_KEY: "1"}))
    assert read_onnx(write(tmp_path / "m.onnx", content)).description == long


def test_a_flipped_bit_in_any_byte_and_every_cut_is_refused(tmp_path: Path) -> None:
    content = sealed(described(small_model()))
    path = tmp_path / "m.onnx"
    flips = [
        content[:place] + bytes([content[place] ^ 1 << (place * 5 % 8)]) + content[place + 1 :]
        for place in range(len(content))
    ]
    for damaged in [*flips, *(content[:length] for length in range(len(content)))]:
        with pytest.raises((DataError, UnsafeError)):
            read_onnx(write(path, damaged))


def test_bytes_at_random_are_refused_as_they_should_be(tmp_path: Path) -> None:
    content = bytearray(sealed(described(small_model())))
    generator = random.Random(0)
    for _ in range(500):
        changed = content[:]
        for _ in range(generator.randrange(1, 20)):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        with pytest.raises((DataError, UnsafeError)):
            read_onnx(write(tmp_path / "m.onnx", bytes(changed)))


@pytest.mark.parametrize("place", ["initializer", "attribute", "inner graph", "sparse", "function"])
def test_weights_in_other_files_are_refused_wherever_they_are(place: str, tmp_path: Path) -> None:
    outside = numpy_helper.from_array(np.zeros(3, np.float32), "outside")
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="/etc/passwd")
    model = small_model()
    if place == "initializer":
        model.graph.initializer.append(outside)
    elif place == "attribute":
        model.graph.node.append(helper.make_node("Constant", [], ["d"], value=outside))
    elif place == "inner graph":
        model = small_model(outside)
    elif place == "sparse":
        model.graph.sparse_initializer.add().values.CopyFrom(outside)
    else:
        model.functions.add(name="f").node.append(helper.make_node("Constant", [], ["d"], value=outside))
    for content in (described(model), sealed(described(model)), model.SerializeToString()):
        with pytest.raises(UnsafeError, match="another file"):
            read_onnx(write(tmp_path / "m.onnx", content))


def test_a_location_in_any_encoding_is_refused(tmp_path: Path) -> None:
    """protobuf allows numbers longer than they need be, and keeps the lower 32 bits of what does not fit."""
    for location in (b"\x70\x01", b"\xf0\x80\x00\x01", b"\x70\x81\x80\x80\x80\x80\x00", b"\x70\x81\x80\x80\x80\x10"):
        tensor = b"\x2a" + bytes([len(location)]) + location  # field 5 of the graph
        content = b"\x3a" + bytes([len(tensor)]) + tensor  # field 7 of the model
        with pytest.raises(UnsafeError):
            read_onnx(write(tmp_path / "m.onnx", content))
    wide_tag = b"\xf0\x80\x80\x80\x90\x00\x01"  # a field number above all that there are
    tensor = b"\x2a" + bytes([len(wide_tag)]) + wide_tag
    with pytest.raises(DataError):
        read_onnx(write(tmp_path / "m.onnx", b"\x3a" + bytes([len(tensor)]) + tensor))


def test_the_way_to_each_tensor_is_that_of_onnx() -> None:
    """If a later version of ONNX puts tensors elsewhere, they must be looked at there too."""

    def leads_to_tensors(message: Descriptor, above: tuple[str, ...] = ()) -> bool:
        if message.name == "TensorProto" or message.name in above:
            return message.name == "TensorProto"
        parts = [field.message_type for field in message.fields if field.message_type is not None]
        return any(leads_to_tensors(part, (*above, message.name)) for part in parts)

    def ways(message: Descriptor) -> dict[int, str]:
        parts = {field.number: field.message_type for field in message.fields if field.message_type is not None}
        return {number: part.name.removesuffix("Proto") for number, part in parts.items() if leads_to_tensors(part)}

    found: dict[str, dict[int, str]] = {}
    waiting = [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        name = message.name.removesuffix("Proto")
        if name not in found:
            found[name] = ways(message)
            waiting += [field.message_type for field in message.fields if field.number in found[name]]
    assert found == PARTS


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ({"other": "words"}, DataError),
        ({DESCRIPTION_KEY: "{}"}, DataError),
        ({DESCRIPTION_KEY: "no JSON", VERSION_KEY: "1"}, DataError),
        ({DESCRIPTION_KEY: "[]", VERSION_KEY: "1"}, DataError),
        ({DESCRIPTION_KEY: "[" * 100_000, VERSION_KEY: "1"}, DataError),
        ({DESCRIPTION_KEY: "{}", VERSION_KEY: "-1"}, DataError),
        ({DESCRIPTION_KEY: "{}", VERSION_KEY: "2"}, MismatchError),
    ],
)
def test_files_that_say_something_else(metadata: dict[str, str], error: type[TlkitError], tmp_path: Path) -> None:
    with pytest.raises(error):
        read_onnx(write(tmp_path / "m.onnx", sealed(described(small_model(), metadata))))


def test_files_that_are_none(tmp_path: Path) -> None:
    for content in (b"", b"\xff" * 100, b"PK\x03", described(small_model()), small_model().SerializeToString()):
        with pytest.raises(DataError):
            read_onnx(write(tmp_path / "m.onnx", content))
    with pytest.raises(MissingInputError):
        read_onnx(str(tmp_path / "missing.onnx"))
    with pytest.raises(DataError, match="folder"):
        read_onnx(str(tmp_path))
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(DataError, match="regular"):
        read_onnx(str(tmp_path / "pipe.onnx"))
