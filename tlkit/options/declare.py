"""How an option is declared, once: its type, default, bounds and help; and what derives from a declaration."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from tlkit.errors import UsageError


def argument(help: str, *, default: Any = dataclasses.MISSING, metavar: str | None = None) -> Any:
    """Declare a positional argument; without a default it must be given."""
    metadata = {"help": help, "positional": True, "metavar": metavar}
    return dataclasses.field(default=default, metadata=metadata)


def option(
    default: Any,
    help: str,
    *,
    short: str | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    metavar: str | None = None,
    stored: bool = True,
) -> Any:
    """Declare a flag: ``learning_rate`` becomes ``--learning-rate``. Bounds are inclusive.

    stored: whether a run remembers it; what a user must say anew each time is not.
    """
    metadata = {"help": help, "short": short, "min": minimum, "max": maximum, "metavar": metavar, "stored": stored}
    return dataclasses.field(default=default, metadata=metadata)


def flag_of(name: str) -> str:
    """learning_rate -> --learning-rate; try_, as Python has a try of its own, -> --try"""
    return "--" + name.rstrip("_").replace("_", "-")


def value_of(name: str, kind: Any, text: str) -> Any:
    """The text of a flag as its declared type. Raises UsageError."""
    kinds = kinds_of(kind)
    choices = [choice for one in kinds if get_origin(one) is Literal for choice in get_args(one)]
    if text in choices:
        return text
    words = " or ".join(choices)
    for number, what in ((int, "a whole number"), (float, "a number")):
        if number in kinds:
            try:
                return number(text)
            except ValueError:
                also = f", nor {words}" if words else ""
                raise UsageError(flag_of(name), f"{text!r} is not {what}{also}") from None
    if choices:
        raise UsageError(flag_of(name), f"{text!r} is not known; expected {', '.join(choices)}")
    return text


def kinds_of(kind: Any) -> tuple[Any, ...]:
    """The types that a declared type allows."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def require_kind(name: str, kind: Any, value: Any) -> Any:
    """A value that was stored, if it is of the declared type. Raises UsageError."""
    for one in kinds_of(kind):
        if get_origin(one) is Literal and value in get_args(one):
            return value
        plain = get_origin(one) or one
        number = plain is float and isinstance(value, int) and not isinstance(value, bool)
        if plain is not Literal and (
            number or (isinstance(value, plain) and isinstance(value, bool) == (plain is bool))
        ):
            return value
    raise UsageError(flag_of(name), f"{value!r} is not a value it can have")


def without_home(value: Any) -> Any:
    """A path in the user's home folder with ~ in its place; any other value as it is."""
    home = os.path.expanduser("~")
    inside = isinstance(value, str) and home != "/" and os.path.join(value, "").startswith(os.path.join(home, ""))
    return f"~{value[len(home) :]}" if inside else value


def with_home(value: Any) -> Any:
    """The inverse of without_home, in the home folder of whoever reads it."""
    inside = isinstance(value, str) and os.path.join(value, "").startswith("~/")
    return os.path.expanduser(value) if inside else value


def bytes_of(flag: str, text: str) -> int:
    """500MB, 10GB or a plain number of bytes. Raises UsageError."""
    match = re.fullmatch(r"([0-9.]+) *([KMGT]?)B?", text.strip(), re.IGNORECASE)
    try:
        if match:
            return int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " "))
    except (ValueError, OverflowError):  # 1.2.3, or more digits than a number has
        pass
    raise UsageError(flag, f"{text!r} is not a size; expected one like 500MB or 10GB")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command takes, and the checks that derive from the declarations."""

    HIDDEN: ClassVar[frozenset[str]] = frozenset()
    """What a command inherits but does not take: --help does not show it."""

    debug: bool = option(False, "Show the traceback of an error.")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            smallest, largest = field.metadata.get("min"), field.metadata.get("max")
            if not isinstance(value, (int, float)):
                continue
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(flag_of(field.name), f"{value} is not a number to work with")
            if smallest is not None and not value >= smallest:
                raise UsageError(flag_of(field.name), f"{value} is too small; the smallest is {smallest}")
            if largest is not None and not value <= largest:
                raise UsageError(flag_of(field.name), f"{value} is too large; the largest is {largest}")

    def to_dict(self) -> dict[str, Any]:
        """Every option that a run remembers with its value, as plain JSON types."""
        return {name: getattr(self, name) for name in self.stored_names()}

    @classmethod
    def from_command_line(cls, values: Mapping[str, Any]) -> Self:
        """From what was typed: texts, flags that are on, lists of paths. Raises UsageError."""
        kinds = get_type_hints(cls)
        return cls(**{n: value_of(n, kinds[n], v) if isinstance(v, str) else v for n, v in values.items()})

    def command_line(self) -> list[str]:
        """What to type for these options: the inverse of from_command_line."""
        flags, arguments = list[str](), list[str]()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata.get("positional"):
                arguments += value if isinstance(value, list) else [] if value is None else [value]
            elif value != field.default:
                flag = flag_of(field.name)
                several = value if isinstance(value, list) else [value]
                flags += [flag] if value is True else [f"{flag}={one}" for one in several]
        return [*flags, "--", *arguments]

    def to_portable_dict(self) -> dict[str, Any]:
        """As to_dict, for files that go to others: the user's home folder is written ~."""
        return {name: without_home(value) for name, value in self.to_dict().items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of to_dict and to_portable_dict; names this version does not know are left out.

        Raises UsageError for a value that an option cannot have.
        """
        kinds = get_type_hints(cls)
        known = {name: values[name] for name in cls.stored_names() if name in values}
        return cls(**{name: require_kind(name, kinds[name], with_home(value)) for name, value in known.items()})

    @classmethod
    def stored_names(cls) -> list[str]:
        """The options that a run remembers."""
        return [field.name for field in dataclasses.fields(cls) if field.metadata.get("stored", True)]
