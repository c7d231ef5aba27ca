"""The values of one option in a search: the kinds of value ranges, and how each is parsed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tlkit.errors import UsageError
from tlkit.options.declare import kinds_of, require_kind, value_of

LEFT_OUT = "default"
"""Stands for the default of an option."""


@dataclass(frozen=True)
class Choice:
    """One of several values, all equally likely."""

    values: tuple[object, ...]
    exhaustible: ClassVar[bool] = True

    def sample(self, generator: random.Random) -> object:
        return generator.choice(self.values)

    def corners(self) -> tuple[object, ...]:
        """Values to test combinations of options with, before any trial runs."""
        return self.values


class Grid(Choice):
    """Every value in turn, combined with each sample of the other options."""


@dataclass(frozen=True)
class Uniform:
    """A number from low to high, uniformly."""

    low: float
    high: float
    exhaustible: ClassVar[bool] = False

    def sample(self, generator: random.Random) -> object:
        return generator.uniform(self.low, self.high)

    def corners(self) -> tuple[object, ...]:
        return self.low, self.high


class LogUniform(Uniform):
    """A number from low to high, uniformly on a log scale."""

    def sample(self, generator: random.Random) -> object:
        value = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        return min(max(value, self.low), self.high)


class Integer(Uniform):
    """An integer from low to high, inclusive."""

    def sample(self, generator: random.Random) -> object:
        return generator.randint(int(self.low), int(self.high))


Dimension = Choice | Uniform
"""The values of one option in a search."""


def converted(name: str, kind: object, word: object) -> object:
    """Converts one written value to the option's type. Raises UsageError."""
    if word == LEFT_OUT and type(None) in kinds_of(kind):
        return None
    if kind is bool and word in ("true", "false"):
        return word == "true"
    return require_kind(name, kind, value_of(name, kind, word) if isinstance(word, str) else word)


def bounds_of(name: str, kind: object, words: Sequence[object], whole: bool = False) -> tuple[float, float]:
    """The bounds of a range. whole: the range has whole numbers only. Raises UsageError."""
    kinds = kinds_of(kind)
    if not {int, float} & set(kinds):
        raise UsageError(name, "is not a number, so it has no range; use choice or grid")
    if len(words) != 2:
        raise UsageError(name, f"has {len(words)} bounds; expected two, LOW and HIGH")
    low, high = (converted(name, kind, word) for word in words)
    if not (
        isinstance(low, (int, float)) and isinstance(high, (int, float)) and math.isfinite(low) and math.isfinite(high)
    ):
        raise UsageError(name, "has a bound that is not a finite number")
    if not low < high:
        raise UsageError(name, f"has an empty range: {low} is not below {high}")
    if whole and (low % 1 or high % 1):
        raise UsageError(name, "has a bound that is not a whole number")
    if not whole and float not in kinds:
        raise UsageError(name, "takes whole numbers; use randint or power-of-two")
    return low, high


def uniform(name: str, kind: object, words: Sequence[object]) -> Dimension:
    return Uniform(*bounds_of(name, kind, words))


def log_uniform(name: str, kind: object, words: Sequence[object]) -> Dimension:
    low, high = bounds_of(name, kind, words)
    if low <= 0:
        raise UsageError(name, f"has a range from {low}; loguniform starts above 0")
    return LogUniform(low, high)


def integer(name: str, kind: object, words: Sequence[object]) -> Dimension:
    return Integer(*bounds_of(name, kind, words, whole=True))


def power_of_two(name: str, kind: object, words: Sequence[object]) -> Dimension:
    low, high = map(int, bounds_of(name, kind, words, whole=True))
    for bound in (low, high):
        if bound < 1 or bound.bit_count() != 1:
            raise UsageError(name, f"has the bound {bound}, which is not a power of two")
    return Choice(tuple(converted(name, kind, 1 << e) for e in range(low.bit_length() - 1, high.bit_length())))


def choice(name: str, kind: object, words: Sequence[object]) -> Choice:
    if not words:
        raise UsageError(name, "has no value to try")
    return Choice(tuple(dict.fromkeys(converted(name, kind, word) for word in words)))


def grid(name: str, kind: object, words: Sequence[object]) -> Dimension:
    return Grid(choice(name, kind, words).values)


Kind = tuple[str, Callable[[str, object, Sequence[object]], Dimension]]
"""A separator of values on a command line, and a parser."""

KINDS: dict[str, Kind] = {
    "uniform": (":", uniform),
    "loguniform": (":", log_uniform),
    "randint": (":", integer),
    "power-of-two": (":", power_of_two),
    "choice": (",", choice),
    "grid": (",", grid),
}
"""The kinds of values, by name."""
