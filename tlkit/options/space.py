"""The search space: options of finetune, each with its values. Loads neither torch nor Ray."""

from __future__ import annotations

import difflib
import itertools
import json
import math
import os
import random
import tomllib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from tlkit.errors import MissingInputError, UsageError
from tlkit.options.dimensions import KINDS, LEFT_OUT, Choice, Dimension, Grid, Kind
from tlkit.options.network import is_weights_file

DEFAULT_SPACE = (
    "learning_rate=loguniform:1e-3:1e-1",
    "weight_decay=loguniform:1e-4:1",
    "label_smoothing=choice:0,0.1",
    "batch_size=power-of-two:8:64",
)
"""The default space: the options that matter most for a head on frozen features, around finetune's defaults."""

MOST_CORNERS = 4096

Point = dict[str, object]
"""Options with values: the difference of one trial from the shared options."""


@dataclass(frozen=True)
class Space:
    """The options in a search and their values, by name."""

    dimensions: Mapping[str, Dimension]

    @property
    def grids(self) -> dict[str, Choice]:
        """The options whose values are all tried."""
        return {name: found for name, found in self.dimensions.items() if isinstance(found, Grid)}

    def combinations(self, names: Iterable[str]) -> list[Point]:
        """Every combination of the values of these options; the first option changes slowest."""
        chosen = {name: self.dimensions[name].corners() for name in names}
        return [dict(zip(chosen, values, strict=True)) for values in itertools.product(*chosen.values())]

    def count(self, names: Iterable[str]) -> int:
        """The number of combinations."""
        return math.prod(len(self.dimensions[name].corners()) for name in names)

    @property
    def sampled(self) -> dict[str, Dimension]:
        """The options whose values are sampled."""
        return {name: found for name, found in self.dimensions.items() if not isinstance(found, Grid)}

    def most_samples(self) -> int | None:
        """The number of distinct samples; None if it is infinite or above MOST_CORNERS."""
        most = self.count(self.sampled)
        return most if most <= MOST_CORNERS and all(found.exhaustible for found in self.sampled.values()) else None

    def sample(self, seed: int, number: int) -> Point:
        """A value for each sampled option: a function of the seed and the sample's number, counted from 0.

        If there are few distinct samples, they come in a shuffled order without repetition.
        """
        if self.most_samples() is not None:
            samples = self.combinations(self.sampled)
            random.Random(seed).shuffle(samples)
            return samples[number % len(samples)]
        generator = random.Random(f"{seed}:{number}")
        return {name: found.sample(generator) for name, found in self.sampled.items()}

    def corners(self) -> Iterator[Point]:
        """The points at the bounds of the space; a sample of them if there are more than MOST_CORNERS."""
        if self.count(self.dimensions) <= MOST_CORNERS:
            yield from self.combinations(self.dimensions)
            return
        generator = random.Random(0)
        for _ in range(MOST_CORNERS):
            yield {name: generator.choice(found.corners()) for name, found in self.dimensions.items()}


Written = tuple[str, str, str, Sequence[object]]
"""An entry of the space as written: its source for messages, the option, the kind and the values."""


def read_written(inline: Sequence[str], file: str | None, given: Container[str] = ()) -> list[Written]:
    """The entries of --try and --space; if there are none, the default space without the options in `given`.

    Paths of weights become absolute. Raises UsageError, or MissingInputError for the file.
    """
    written = [*map(split_inline, inline), *(read_file(file) if file is not None else ())]
    if not written:
        written = [entry for entry in map(split_inline, DEFAULT_SPACE) if entry[1] not in given]
    if not written:
        raise UsageError("--try", "is missing: all options of the default search are given")
    return [
        (origin, name, kind, [os.path.abspath(w) if is_file(w) else w for w in words] if name == "weights" else words)
        for origin, name, kind, words in written
    ]


def is_file(weights: object) -> TypeGuard[str]:
    """Whether a value of --weights is a file."""
    return isinstance(weights, str) and weights != "" and is_weights_file(weights)


def split_inline(text: str) -> Written:
    """Parses NAME=KIND:VALUES, e.g. learning_rate=loguniform:1e-4:1e-1. Raises UsageError."""
    origin = f"--try {text}"
    name, equals, rest = text.partition("=")
    kind, colon, values = rest.partition(":")
    if not (name and equals and colon):
        raise UsageError(origin, "is not of the form NAME=KIND:VALUES, e.g. learning_rate=loguniform:1e-4:1e-1")
    separator, _ = kind_named(origin, kind)
    words = values.split(separator) if values else []
    if "" in words:
        raise UsageError(origin, "has an empty value")
    return origin, name, kind, words


def read_file(file: str) -> list[Written]:
    """Parses TOML such as learning_rate = { loguniform = [1e-4, 1e-1] }. Raises UsageError or MissingInputError."""
    try:
        with open(file, "rb") as stream:
            content = tomllib.load(stream)
    except OSError as error:
        raise MissingInputError(file, f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(file, f"is not TOML: {error}") from error
    if not content:
        raise UsageError(file, "is empty; expected lines such as learning_rate = { loguniform = [1e-4, 1e-1] }")
    written = list[Written]()
    for name, entry in content.items():
        match [*entry.items()] if isinstance(entry, dict) else []:
            case [(kind, [*words])]:
                written.append((f"{file}: {name}", name, kind, words))
            case _:
                problem = "is not of the form { KIND = [VALUES] }, e.g. { loguniform = [1e-4, 1e-1] }"
                raise UsageError(f"{file}: {name}", problem)
    return written


def as_toml(written: Iterable[Written]) -> str:
    """The entries as a file for --space."""
    return "".join(
        f"{name} = {{ {kind} = {json.dumps(list(words), ensure_ascii=False)} }}\n" for _, name, kind, words in written
    )


def kind_named(origin: str, kind: str) -> Kind:
    """A row of KINDS. Raises UsageError."""
    if kind not in KINDS:
        raise UsageError(origin, f"{kind!r} is not a kind of values; expected {', '.join(KINDS)}")
    return KINDS[kind]


def space_of(written: Iterable[Written], kinds: Mapping[str, object]) -> Space:
    """The space of these entries. kinds: the tunable options, with their types. Raises UsageError with a suggestion."""
    dimensions: dict[str, Dimension] = {}
    for origin, name, kind, words in written:
        _, parse = kind_named(origin, kind)
        known = name.replace("-", "_")
        if known not in kinds:
            close = difflib.get_close_matches(known, kinds, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"Tunable options: {', '.join(sorted(kinds))}."
            raise UsageError(origin, f"{name!r} is not a tunable option", hint)
        if known in dimensions:
            raise UsageError(origin, f"repeats {known}; give all its values in one place")
        try:
            dimensions[known] = parse(known, kinds[known], words)
        except UsageError as error:
            raise UsageError(origin, f"{known} {error.problem}" if error.subject == known else error.problem) from error
    return Space(dimensions)


def described(point: Mapping[str, object]) -> str:
    """A point as text: learning_rate=0.0123 optimizer=sgd"""
    return " ".join(f"{name}={shown(value)}" for name, value in point.items())


def shown(value: object) -> str:
    """A value as in --try, numbers rounded to four digits."""
    if value is None:
        return LEFT_OUT
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
