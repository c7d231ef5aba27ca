"""The values of one option in a search: the kinds of value ranges, and how each is parsed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tlkit.errors import UsageError
from tlkit.options.declare import kinds_of, require_kind, value_of

LEFT_OUT = "default"
"""Stands for the default of an option."""


@dataclass(frozen=True)
class Choice:
    """One of several values, all equally likely."""

    values: tuple[Any, ...]
    exhaustible: ClassVar[bool] = True

    def sample(self, generator: random.Random) -> Any:
        return generator.choice(self.values)

    def corners(self) -> tuple[Any, ...]:
        """Values to test combinations of options with, before any trial runs."""
        return self.values


class Grid(Choice):
    """Every value in turn, combined with each sample of the other options."""


@dataclass(frozen=True)
class Uniform:
    """Any number from low to high, uniformly."""

    low: float
    high: float
    exhaustible: ClassVar[bool] = False

    def sample(self, generator: random.Random) -> Any:
        return generator.uniform(self.low, self.high)

    def corners(self) -> tuple[Any, ...]:
        return self.low, self.high


class LogUniform(Uniform):
    """Any number from low to high, uniformly on a log scale."""

    def sample(self, generator: random.Random) -> Any:
        value = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        return min(max(value, self.low), self.high)


class Integer(Uniform):
    """Any integer from low to high, inclusive."""

    def sample(self, generator: random.Random) -> Any:
        return generator.randint(int(self.low), int(self.high))


Dimension = Choice | Uniform
"""The values of one option in a search."""


def values_of(name: str, kind: Any, words: Sequence[Any]) -> tuple[Any, ...]:
    """Converts written values to the option's type. Raises UsageError."""
    if not words:
        raise UsageError(name, "has no value to try")
    return tuple(converted(name, kind, word) for word in words)


def different(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The distinct values, in order."""
    return tuple(dict.fromkeys(values))


def converted(name: str, kind: Any, word: Any) -> Any:
    """Converts one value to the option's type. Raises UsageError."""
    kinds = kinds_of(kind)
    if word == LEFT_OUT and type(None) in kinds:
        return None
    if kind is bool and word in ("true", "false"):
        return word == "true"
    return require_kind(name, kind, value_of(name, kind, word) if isinstance(word, str) else word)


def bounds_of(name: str, kind: Any, words: Sequence[Any]) -> tuple[Any, Any]:
    """The bounds of a range. Raises UsageError."""
    kinds = kinds_of(kind)
    if not {int, float} & set(kinds):
        raise UsageError(name, "is not a number, so it has no range; use choice or grid")
    if len(words) != 2:
        raise UsageError(name, f"has {len(words)} bounds; expected two, LOW and HIGH")
    low, high = values_of(name, kind, words)
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        raise UsageError(name, "has a bound that is not a finite number")
    if not low < high:
        raise UsageError(name, f"has an empty range: {low} is not below {high}")
    return low, high


def uniform(name: str, kind: Any, words: Sequence[Any]) -> Dimension:
    low, high = bounds_of(name, kind, words)
    if isinstance(low, int):
        require_fractions(name, kind)
    return Uniform(low, high)


def log_uniform(name: str, kind: Any, words: Sequence[Any]) -> Dimension:
    low, high = bounds_of(name, kind, words)
    require_fractions(name, kind)
    if low <= 0:
        raise UsageError(name, f"has a range from {low}; loguniform starts above 0")
    return LogUniform(low, high)


def require_fractions(name: str, kind: Any) -> None:
    """Raises UsageError for an option that takes integers only."""
    if float not in kinds_of(kind):
        raise UsageError(name, "takes whole numbers; use randint or power-of-two")


def integer(name: str, kind: Any, words: Sequence[Any]) -> Dimension:
    low, high = bounds_of(name, kind, words)
    if int(low) != low or int(high) != high:
        raise UsageError(name, "has bounds that are not whole numbers; randint needs whole numbers")
    return Integer(low, high)


def power_of_two(name: str, kind: Any, words: Sequence[Any]) -> Dimension:
    low, high = bounds_of(name, kind, words)
    for bound in (low, high):
        if bound < 1 or int(bound) != bound or int(bound) & (int(bound) - 1):
            raise UsageError(name, f"has the bound {bound}, which is not a power of two")
    exponents = range(int(low).bit_length() - 1, int(high).bit_length())
    return Choice(tuple(converted(name, kind, 1 << exponent) for exponent in exponents))


def choice(name: str, kind: Any, words: Sequence[Any]) -> Dimension:
    return Choice(different(values_of(name, kind, words)))


def grid(name: str, kind: Any, words: Sequence[Any]) -> Dimension:
    return Grid(different(values_of(name, kind, words)))


KINDS: dict[str, tuple[str, Callable[[str, Any, Sequence[Any]], Dimension]]] = {
    "uniform": (":", uniform),
    "loguniform": (":", log_uniform),
    "randint": (":", integer),
    "power-of-two": (":", power_of_two),
    "choice": (",", choice),
    "grid": (",", grid),
}
"""Each kind with the separator of its values on a command line, and its parser."""
