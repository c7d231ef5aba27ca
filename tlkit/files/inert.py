"""Read the tensors of a torch file that also holds objects of Python classes, without running anything of theirs.

Training scripts save an argparse.Namespace, a date or a NumPy number beside the weights. This reader rebuilds
tensors and plain values itself. Every other name in the pickle becomes Inert, which accepts what a pickle does to an
object and does nothing: no module is imported, and no function of the file's choosing is called.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor

from tlkit.errors import DataError, first_line, is_memory
from tlkit.files.inputs import size_of
from tlkit.files.pickles import HARMLESS, LEGACY_MAGIC

DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}  # fmt: skip


class Inert(dict[object, object]):
    """Stands for an object of a class outside tensors and plain values. It keeps items, because some are dicts."""

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __new__(cls, *arguments: object, **named: object) -> Inert:
        return super().__new__(cls)

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__()

    def __eq__(self, other: object) -> bool:
        return self is other

    def ignore(self, *arguments: object) -> None:
        """Do nothing."""

    __setstate__ = append = extend = add = ignore

    def __call__(self, *arguments: object) -> Inert:
        return Inert()


class Plain(dict[object, object]):
    """An OrderedDict, defaultdict or Counter; attributes that a pickle sets on it are ignored."""

    __slots__ = ()

    def __new__(cls, *arguments: object) -> Plain:
        return super().__new__(cls)

    def __init__(self, *arguments: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """Do nothing."""


class Rebuild:
    """A function of this module, in a wrapper that a pickle cannot change."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self.call = call

    def __call__(self, *arguments: object) -> object:
        return self.call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a function cannot be changed")


@dataclass(frozen=True, slots=True)
class StorageKind:
    """A class of torch storages."""

    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor whose numbers have not been read yet. key: of its storage in the file."""

    key: str
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def read(self, storages: Callable[[str], bytearray]) -> Tensor | None:
        """The tensor; None if it is larger than its storage. Raises RuntimeError if it lies outside of it."""
        content = storages(self.key)
        whole = torch.frombuffer(content, dtype=self.dtype) if content else torch.empty(0, dtype=self.dtype)
        tensor = torch.as_strided(whole, self.size, self.stride, self.offset)
        return tensor if tensor.numel() <= whole.numel() else None


def tensor_of(storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: object) -> object:
    """A tensor by torch._utils._rebuild_tensor, _v2 and _v3; in _v3, a later argument is the type of its numbers."""
    if not isinstance(storage, Stored):
        return Inert()
    dtype = next((value for value in rest if isinstance(value, torch.dtype)), storage.dtype)
    return Stored(storage.key, dtype, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def tensor_of_type(function: object, kind: object, arguments: tuple[object, ...], state: object) -> object:
    """A tensor with attributes, which are ignored."""
    return function(*arguments) if isinstance(function, Rebuild) else Inert()


REBUILD: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": tensor_of,
    "torch._utils._rebuild_tensor_v2": tensor_of,
    "torch._utils._rebuild_tensor_v3": tensor_of,
    "torch._utils._rebuild_parameter": lambda data, *rest: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *rest: data,
    "torch._tensor._rebuild_from_type_v2": tensor_of_type,
    "torch.Size": tuple,
    "builtins.set": set,
    "__builtin__.set": set,
}
"""The functions that tensors and plain values use, and what this reader does in their place."""


class InertReader(pickle.Unpickler):
    """Reads one pickle. skipped: the names of classes and functions that were replaced by Inert."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.skipped: dict[str, None] = {}
        self.used: dict[str, Stored] = {}

    def find_class(self, module: str, name: str) -> object:
        """The replacement of a name; nothing is imported."""
        full = f"{module}.{name}"
        if full in REBUILD:
            return Rebuild(REBUILD[full])
        if full in ("collections.OrderedDict", "collections.defaultdict", "collections.Counter"):
            return Plain
        if module in ("torch", "torch.storage") and name in DTYPES:
            return StorageKind(DTYPES[name])
        dtype = getattr(torch, name, None) if module == "torch" and name.isidentifier() else None
        if isinstance(dtype, torch.dtype):
            return dtype
        if not re.fullmatch(HARMLESS, full):
            self.skipped[full[:80]] = None
        return Inert

    def persistent_load(self, identity: object) -> object:
        """A storage, as ("storage", kind, key, device, length, ...)."""
        match identity:
            case ("storage", StorageKind() as kind, str() as key, _, int(), *_):
                return self.used.setdefault(key, Stored(key, kind.dtype, 0, (), ()))
        return Inert()


def read_inert(path: str, file: BinaryIO, archive: bool) -> tuple[object, tuple[str, ...]]:
    """Read a torch file whose pickle was inspected by files.pickles. archive: whether it is a zip archive.

    Returns the content, with None in place of tensors larger than their storage, and the names of what was not rebuilt.
    Raises DataError if the file is damaged.
    """
    try:
        return read_archive(file) if archive else read_legacy(file)
    except Exception as error:  # damaged pickles raise many kinds of exceptions
        if is_memory(error):
            raise
        raise DataError(path, f"is not a torch file, or is damaged ({first_line(error)[:120]})") from None


def read_archive(file: BinaryIO) -> tuple[object, tuple[str, ...]]:
    """Read a zip archive, which torch writes since version 1.6."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        folder = next(name for name in names if name.endswith("data.pkl")).removesuffix("data.pkl")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        unpickler = InertReader(io.BytesIO(archive.read(f"{folder}data.pkl")))
        content = unpickler.load()
        storages: dict[str, bytearray] = {}

        def storage(key: str) -> bytearray:
            if key not in storages:
                storages[key] = bytearray(archive.read(f"{folder}data/{key}"))
            return storages[key]

        return with_tensors(content, storage, {}), tuple(unpickler.skipped)


def read_legacy(file: BinaryIO) -> tuple[object, tuple[str, ...]]:
    """Read the format of older torch: five pickles, and the numbers of all storages behind them."""
    file.seek(0)
    if InertReader(file).load() != LEGACY_MAGIC:
        raise ValueError("not a torch file")
    for _ in ("protocol version", "system"):
        InertReader(file).load()
    unpickler = InertReader(file)
    content = unpickler.load()
    keys = InertReader(file).load()
    storages = {}
    for key in keys:
        length = int.from_bytes(file.read(8), "little") * unpickler.used[key].dtype.itemsize
        if length > size_of(file) - file.tell():
            raise EOFError("truncated")
        storages[key] = bytearray(file.read(length))
    return with_tensors(content, storages.__getitem__, {}), tuple(unpickler.skipped)


def with_tensors(value: object, storages: Callable[[str], bytearray], done: dict[int, object]) -> object:
    """A value with its tensors read. done: containers by identity. Raises ValueError if one contains itself."""
    if isinstance(value, Stored):
        return value.read(storages)
    if not isinstance(value, (Mapping, list, tuple)):
        return value
    if id(value) not in done:
        done[id(value)] = done  # while its own values are read
        if isinstance(value, Mapping):
            done[id(value)] = {key: with_tensors(item, storages, done) for key, item in value.items()}
        else:
            done[id(value)] = [with_tensors(item, storages, done) for item in value]
    if done[id(value)] is done:
        raise ValueError("contains itself")
    return done[id(value)]
