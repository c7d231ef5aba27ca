"""Ways to change a file: its bytes, or what it says, sealed again so that what lies behind the seal is reached."""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

import torch

from tlkit.files.checksum import DIGITS, sha256_of, write_checksummed_archive
from tlkit.files.onnx_file import CHECKSUM_BYTES, checksum_of
from tlkit.files.safetensors_file import BLANK, FIELD

Mutate = Callable[[bytes, random.Random], bytes]


# Mutations of bytes.


def flip_bits(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def change_range(content: bytes, chance: random.Random) -> bytes:
    """Zero, repeat, remove, insert or move a range, or put one of the numbers there at which programs stumble."""
    start = chance.randrange(len(content) + 1)
    size = min(chance.choice((1, 2, 4, 8, 64, 1000)), len(content) - start)
    part, rest = content[start : start + size], content[start + size :]
    width = chance.choice((1, 2, 4, 8))
    number = chance.choice(
        (0, 1, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
    )
    changes: list[bytes] = [
        content[:start] + bytes(size) + rest,
        content[:start] + part * chance.choice((2, 3, 100)) + rest,
        content[:start] + rest,
        content[:start] + chance.randbytes(size) + part + rest,
        rest + content[:start] + part,
        content[:start] + (number % 2 ** (8 * width)).to_bytes(width, "little") + content[start + width :],
    ]
    return chance.choice(changes)


BYTES: tuple[Mutate, ...] = (flip_bits, cut, change_range)


def mutate_bytes(content: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 1, 2, 4))):
        content = chance.choice(BYTES)(content, chance)
    return content


# Mutations of what a file says, sealed again so that what lies behind the seal is reached.

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**70), 1.5, float("nan"), float("inf"), -0.0, "", "x", "\0",
    "../..", "/etc/passwd", "hf-hub:a/b", "\ud800", "x" * 10_000, [], {}, [[]], [None], {"": None}, [1, 2, 3, 4], "160",
    "timm", b"x",
)  # fmt: skip


def mutate_value(value: Any, chance: random.Random) -> Any:
    """Nested dicts and lists with something in them changed, removed, repeated, renamed or swapped."""
    value = copy.copy(value)
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(list(value))
        what = chance.random()
        if what < 0.55:
            value[key] = mutate_value(value[key], chance)
        elif what < 0.75:
            value[key] = odd_value(chance)
        elif what < 0.85:
            del value[key]
        elif what < 0.93:
            value[chance.choice(("", "x", 7, "format", f"{key}x"))] = value.pop(key)
        else:
            other = chance.choice(list(value))
            value[key], value[other] = value[other], value[key]
        return value
    if isinstance(value, list) and value and chance.random() < 0.85:
        place = chance.randrange(len(value))
        what = chance.random()
        if what < 0.5:
            value[place] = mutate_value(value[place], chance)
        elif what < 0.7:
            value[place] = odd_value(chance)
        elif what < 0.8:
            del value[place]
        elif what < 0.9:
            value *= chance.choice((0, 2, 1000))
        else:
            chance.shuffle(value)
        return value
    if type(value) is int and chance.random() < 0.7:
        return chance.choice((value + 1, -value, value * 10**9, float(value), str(value)))
    if isinstance(value, str) and value and chance.random() < 0.5:
        return chance.choice((value[:-1], value * 2, value.upper(), value + "\0", value.encode()))
    return mutate_tensor(value, chance) if type(value).__name__ == "Tensor" else odd_value(chance)


def odd_value(chance: random.Random) -> Any:
    return copy.copy(chance.choice(ODD_VALUES))


def mutate_tensor(tensor: Any, chance: random.Random) -> Any:
    kinds = (torch.float64, torch.int8, torch.bool, torch.complex64, torch.float16)
    return chance.choice(
        (
            lambda: tensor.reshape(-1),
            lambda: tensor[..., None],
            lambda: tensor.to(chance.choice(kinds)),
            lambda: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor,
            lambda: torch.zeros(chance.choice(((), (0,), (3, 0), (7,), (2, 2, 2)))),
            lambda: torch.ones(1).expand(10**12),
            lambda: tensor.to_sparse(),
            lambda: tensor.to("meta"),
            lambda: odd_value(chance),
        )
    )()


def mutate_artifact(content: bytes, chance: random.Random) -> bytes:
    """A torch file with other content."""
    value = torch.load(io.BytesIO(content), weights_only=True)
    for _ in range(chance.choice((1, 1, 2, 3))):
        value = mutate_value(value, chance)
    file = io.BytesIO()
    write_checksummed_archive(file, lambda sealed: torch.save(value, sealed))
    return file.getvalue()


def mutate_members(content: bytes, chance: random.Random) -> bytes:
    """An archive with other bytes in one of its files, or another of its files gone, double or renamed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    small = [place for place, (_, inner) in enumerate(members) if len(inner) < 100_000]
    place = chance.choice(small)
    name, inner = members[place]
    what = chance.random()
    if what < 0.8:
        members[place] = name, mutate_json(inner, chance) if name.endswith(".json") else mutate_bytes(inner, chance)
    elif what < 0.9:
        del members[place]
    else:
        members[place] = (
            chance.choice((f"../{name}", f"/{name}", name.upper(), "", f"{name}/x", "a/constants.pkl")),
            inner,
        )
    return sealed_archive(members)


def sealed_archive(members: list[tuple[str, bytes]]) -> bytes:
    inner, file = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    write_checksummed_archive(file, lambda sealed: sealed.write(inner.getvalue()))
    return file.getvalue()


def mutate_json(content: bytes, chance: random.Random) -> bytes:
    """Other values, or text that is hardly JSON any more."""
    if chance.random() < 0.3:
        return mutate_bytes(content, chance)
    try:
        value = json.loads(content)
    except ValueError:
        return mutate_bytes(content, chance)
    for _ in range(chance.choice((1, 1, 2, 3))):
        value = mutate_value(value, chance)
    if chance.random() < 0.05:
        return b"[" * 100_000
    return json.dumps(value, default=str).encode("utf-8", "surrogatepass")


def mutate_lines(content: bytes, chance: random.Random) -> bytes:
    """One line of JSON changed."""
    lines = content.splitlines()
    place = chance.randrange(len(lines))
    lines[place] = mutate_json(lines[place], chance)
    return b"\n".join(lines) + b"\n"


def mutate_safetensors(content: bytes, chance: random.Random) -> bytes:
    """Another header, or other metadata, sealed again."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = header["__metadata__"]
    if chance.random() < 0.6 and "tlkit" in metadata:
        metadata["tlkit"] = mutate_json(metadata["tlkit"].encode(), chance).decode("utf-8", "replace")
    else:
        header = mutate_value(header, chance)
    text = json.dumps(header, default=str, separators=(",", ":")).encode("utf-8", "replace")
    if chance.random() < 0.2:
        text = mutate_bytes(text, chance)
    changed = bytearray(len(text).to_bytes(8, "little") + text + data)
    place = changed.find(FIELD)
    if place >= 0 and place + len(FIELD) + DIGITS <= len(changed):
        start = place + len(FIELD)
        changed[start : start + DIGITS] = BLANK
        changed[start : start + DIGITS] = sha256_of(changed)
    return bytes(changed)


def mutate_onnx(content: bytes, chance: random.Random) -> bytes:
    """Other bytes, mostly of the description at the end, sealed again."""
    inner = content[:-CHECKSUM_BYTES]
    place = max(0, inner.rfind(b'{"classes"')) if chance.random() < 0.7 else 0
    inner = inner[:place] + mutate_bytes(inner[place:], chance)
    return inner + checksum_of(inner)


def mutate_segment(content: bytes, chance: random.Random) -> bytes:
    """Other headers and index, sealed again as far as that goes."""
    offset = content.find(b"\x93NUMPY", 10) + 128
    head = mutate_bytes(content[:offset], chance)
    return head + content[offset:-DIGITS] + sha256_of(head)
