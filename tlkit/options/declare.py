"""How an option is declared, once: type, default, bounds, help and group; and the checks derived from it."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, ClassVar, Literal, Self, TypedDict, TypeVar, Union, Unpack, get_args, get_origin, get_type_hints

from tlkit.errors import UsageError

RENAMED = {"keep": "keep_checkpoints"}
"""Old names of options: the command line takes them, and stored options are read with them."""

T = TypeVar("T")

GROUPS = (
    "Common", "Search", "Model", "Training", "Data checks", "Input and output", "Speed and memory",
    "Checkpoints and logging", "Several devices", "Other",
)  # fmt: skip
"""The groups of `--help`, in this order."""


def argument(help: str, *, default: Any = dataclasses.MISSING, metavar: str | None = None) -> Any:
    """Declare a positional argument; without a default it must be given."""
    return dataclasses.field(default=default, metadata={"help": help, "positional": True, "metavar": metavar})


class Details(TypedDict, total=False):
    """Optional properties of an option. Bounds are inclusive.

    group: one of GROUPS. shown: the default in words, for --help. stored: whether a run records the option.
    """

    group: str
    shown: str
    short: str
    minimum: float
    maximum: float
    metavar: str
    stored: bool


def option(default: T, help: str, **details: Unpack[Details]) -> T:
    """Declare a flag: ``learning_rate`` becomes ``--learning-rate``."""
    return dataclasses.field(default=default, metadata={"group": "Other", "stored": True, **details, "help": help})


def flag_of(name: str) -> str:
    """learning_rate -> --learning-rate; try_, because try is a keyword of Python, -> --try"""
    return "--" + name.rstrip("_").replace("_", "-")


def label_of(field: dataclasses.Field[object]) -> str:
    """The name of an option in messages: its flag, or an argument in capitals."""
    return field.name.upper() if field.metadata.get("positional") else flag_of(field.name)


def value_of(name: str, kind: object, text: str) -> object:
    """The text of a flag as its declared type. Raises UsageError."""
    kinds, flag = kinds_of(kind), flag_of(name)
    choices = choices_of(kind)
    if text in choices:
        return text
    for number, description in ((int, "a whole number"), (float, "a number")):
        if number in kinds:
            try:
                return number(text)
            except ValueError:
                words = " or ".join((description, *choices))
                raise UsageError(flag, f"{text!r} is not {words}", did_you_mean(flag, text, choices)) from None
    if choices:
        problem = f"{text!r} is not a valid value; expected {', '.join(choices)}"
        raise UsageError(flag, problem, did_you_mean(flag, text, choices))
    return text


def did_you_mean(before: str, text: str, choices: Collection[str]) -> str:
    """A hint with the choice most like a mistyped one; empty if none is like it."""
    import difflib

    close = difflib.get_close_matches(text.lower(), sorted(choices), n=1)
    return f"Did you mean {before} {close[0]}?" if close else ""


def kinds_of(kind: object) -> tuple[object, ...]:
    """The types that a declared type allows."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def choices_of(kind: object) -> list[str]:
    """The words that a declared type allows."""
    return [str(choice) for one in kinds_of(kind) if get_origin(one) is Literal for choice in get_args(one)]


def require_kind(name: str, kind: object, value: object) -> object:
    """A stored value, if it is of the declared type. Raises UsageError."""
    for one in kinds_of(kind):
        plain = get_origin(one) or one
        if (plain is Literal and value in get_args(one)) or (plain is float and type(value) is int):
            return value
        if isinstance(plain, type) and isinstance(value, plain) and isinstance(value, bool) == (plain is bool):
            return value
    raise UsageError(flag_of(name), f"{value!r} is not a valid value")


def without_home(value: object) -> object:
    """A path in the user's home folder with ~ in its place; any other value as it is."""
    home = os.path.expanduser("~")
    if isinstance(value, str) and home != "/" and os.path.join(value, "").startswith(os.path.join(home, "")):
        return f"~{value[len(home) :]}"
    return value


def with_home(value: object) -> object:
    """The inverse of without_home, in the home folder of the current user."""
    is_path = isinstance(value, str) and os.path.join(value, "").startswith("~/")
    return os.path.expanduser(str(value)) if is_path else value


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
    """The options of every command, and the checks derived from the declarations."""

    HIDDEN: ClassVar[frozenset[str]] = frozenset()
    """Inherited options that the command refuses; --help does not show them."""

    COMMON: ClassVar[tuple[str, ...]] = ()
    """Options that --help shows first, in this order."""

    EXAMPLES: ClassVar[tuple[str, ...]] = ()
    """Command lines at the end of --help."""

    debug: bool = option(False, "Show the traceback of an error")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, flag = getattr(self, field.name), flag_of(field.name)
            smallest, largest = field.metadata.get("minimum"), field.metadata.get("maximum")
            if not isinstance(value, (int, float)):
                continue
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(flag, f"{value} is not a finite number")
            if smallest is not None and not value >= smallest:
                raise UsageError(flag, f"{value} is too small; expected at least {smallest:g}")
            if largest is not None and not value <= largest:
                raise UsageError(flag, f"{value} is too large; expected at most {largest}")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From values whose types are checked. Raises UsageError for an invalid combination."""
        return cls(**values)

    def changed(self, values: Mapping[str, Any]) -> Self:
        """A copy with some values replaced. Raises UsageError for an invalid combination."""
        return dataclasses.replace(self, **values)

    @classmethod
    def from_command_line(cls, values: Mapping[str, object]) -> Self:
        """From what was typed: texts, flags that are set, lists of paths; None if not given. Raises UsageError."""
        kinds = get_type_hints(cls)
        given = {name: value for name, value in values.items() if value is not None}
        for field in dataclasses.fields(cls):
            if field.default is dataclasses.MISSING and field.name not in given:
                raise UsageError(label_of(field), "is missing")
        return cls.of({n: value_of(n, kinds[n], v) if isinstance(v, str) else v for n, v in given.items()})

    def command_line(self) -> list[str]:
        """The words to type for these options: the inverse of from_command_line."""
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

    def to_dict(self) -> dict[str, object]:
        """Every option that a run records with its value, as plain JSON types."""
        return {name: getattr(self, name) for name in self.stored_names()}

    def to_portable_dict(self) -> dict[str, object]:
        """As to_dict, for files that are passed on: the user's home folder is written ~."""
        return {name: without_home(value) for name, value in self.to_dict().items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """The inverse of to_dict and to_portable_dict, old names included; unknown names are ignored.

        Raises UsageError for a value of the wrong type.
        """
        kinds = get_type_hints(cls)
        values = {RENAMED.get(name, name): value for name, value in values.items()}
        known = {name: values[name] for name in cls.stored_names() if name in values}
        return cls.of({name: require_kind(name, kinds[name], with_home(value)) for name, value in known.items()})

    @classmethod
    def stored_names(cls) -> list[str]:
        """The names of the options that a run records."""
        return [field.name for field in dataclasses.fields(cls) if field.metadata.get("stored", True)]
