"""What a search tries: options of finetune, each with the values it may have. Loads neither torch nor Ray."""

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
from typing import Any

from tlkit.errors import MissingInputError, UsageError
from tlkit.options.dimensions import KINDS, LEFT_OUT, Choice, Dimension, Grid

DEFAULT_SPACE = (
    "learning_rate=loguniform:1e-3:1e-1",
    "weight_decay=loguniform:1e-4:1",
    "label_smoothing=choice:0,0.1",
    "batch_size=power-of-two:8:64",
)
"""What is tried where nothing is named: what matters most to a head on frozen features, around finetune's defaults."""


MOST_CORNERS = 4096


Point = dict[str, Any]
"""Options with values: what a trial changes."""


@dataclass(frozen=True)
class Space:
    """Every option that is tried, by name."""

    dimensions: Mapping[str, Dimension]

    @property
    def grids(self) -> dict[str, Choice]:
        """The options of which every value is tried."""
        return {name: found for name, found in self.dimensions.items() if isinstance(found, Grid)}

    def combinations(self, names: Iterable[str]) -> list[Point]:
        """Every combination of the values of some options, the first option's changing least often."""
        chosen = {name: self.dimensions[name].corners() for name in names}
        return [dict(zip(chosen, values, strict=True)) for values in itertools.product(*chosen.values())]

    def count(self, names: Iterable[str]) -> int:
        """How many combinations there are."""
        return math.prod(len(self.dimensions[name].corners()) for name in names)

    @property
    def sampled(self) -> dict[str, Dimension]:
        """The options whose values are drawn."""
        return {name: found for name, found in self.dimensions.items() if not isinstance(found, Grid)}

    def most_samples(self) -> int | None:
        """How many samples there are that differ; None if there is no end to them, or hardly one."""
        if not all(found.exhaustible for found in self.sampled.values()):
            return None
        most = math.prod(len(found.corners()) for found in self.sampled.values())
        return most if most <= MOST_CORNERS else None

    def sample(self, seed: int, number: int) -> Point:
        """A value for each option that is drawn: a function of the seed and the sample's number, counted from 0.

        Where there are few samples they come in a shuffled order, each once.
        """
        if self.most_samples() is not None:
            samples = self.combinations(self.sampled)
            random.Random(seed).shuffle(samples)
            return samples[number % len(samples)]
        generator = random.Random(f"{seed}:{number}")
        return {name: found.sample(generator) for name, found in self.sampled.items()}

    def corners(self) -> Iterator[Point]:
        """The outermost points; where they are very many, a sample of them."""
        ends = {name: found.corners() for name, found in self.dimensions.items()}
        if math.prod(map(len, ends.values())) <= MOST_CORNERS:
            yield from self.combinations(self.dimensions)
            return
        generator = random.Random(0)
        for _ in range(MOST_CORNERS):
            yield {name: generator.choice(values) for name, values in ends.items()}


Written = tuple[str, str, str, Sequence[Any]]
"""What is said of an option: where, its name, the kind, and the values as they were written."""


def read_written(inline: Sequence[str], file: str | None, given: Container[str] = ()) -> list[Written]:
    """What --try and --space say; where neither says anything, the default space without the options that are given.

    Files mean the same from any folder. Raises UsageError, or MissingInputError for the file.
    """
    written = [*map(split_inline, inline), *(read_file(file) if file is not None else ())]
    if not written:
        written = [entry for entry in map(split_inline, DEFAULT_SPACE) if entry[1] not in given]
    if not written:
        raise UsageError("--try", "is missing: all that is tried by default is given")
    return [(*entry[:3], [*map(absolute, entry[3])]) if entry[1] == "weights" else entry for entry in written]


def absolute(weights: Any) -> Any:
    """A value of --weights, a file by its whole path."""
    is_file = isinstance(weights, str) and weights not in ("pretrained", "none", "")
    return os.path.abspath(weights) if is_file else weights


def as_toml(written: Iterable[Written]) -> str:
    """The same as a file that --space takes."""
    return "".join(
        f"{name} = {{ {kind} = {json.dumps(list(words), ensure_ascii=False)} }}\n" for _, name, kind, words in written
    )


def space_of(written: Iterable[Written], kinds: Mapping[str, Any]) -> Space:
    """What is tried. kinds: the options that may be, with their types. Raises UsageError."""
    dimensions: dict[str, Dimension] = {}
    for origin, name, kind, words in written:
        known = known_name(origin, name, kinds)
        if known in dimensions:
            raise UsageError(origin, f"says again what {known} may be")
        try:
            dimensions[known] = KINDS[kind][1](known, kinds[known], words)
        except UsageError as error:
            raise UsageError(origin, f"{known} {error.problem}" if error.subject == known else error.problem) from error
    return Space(dimensions)


def split_inline(text: str) -> Written:
    """NAME=KIND:VALUES, as in learning_rate=loguniform:1e-4:1e-1. Raises UsageError."""
    origin = f"--try {text}"
    name, equals, rest = text.partition("=")
    kind, colon, values = rest.partition(":")
    if not (name and equals and colon):
        raise UsageError(origin, "is not of the form NAME=KIND:VALUES, as in learning_rate=loguniform:1e-4:1e-1")
    require_known_kind(origin, kind)
    words = values.split(KINDS[kind][0]) if values else []
    if "" in words:
        raise UsageError(origin, "has an empty value")
    return origin, name, kind, words


def read_file(file: str) -> list[Written]:
    """The lines of a TOML file, as in learning_rate = { loguniform = [1e-4, 1e-1] }. Raises as read_space does."""
    try:
        with open(file, "rb") as stream:
            content = tomllib.load(stream)
    except OSError as error:
        raise MissingInputError(file, f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(file, f"is not TOML: {error}") from error
    if not content:
        raise UsageError(file, "is an empty space: it names no option")
    written = []
    for name, entry in content.items():
        origin = f"{file}: {name}"
        if not (isinstance(entry, dict) and len(entry) == 1 and isinstance(next(iter(entry.values())), list)):
            raise UsageError(origin, "is not of the form { KIND = [VALUES] }, as in { loguniform = [1e-4, 1e-1] }")
        kind, words = next(iter(entry.items()))
        require_known_kind(origin, kind)
        written.append((origin, name, kind, words))
    return written


def require_known_kind(origin: str, kind: str) -> None:
    """Raises UsageError."""
    if kind not in KINDS:
        raise UsageError(origin, f"{kind!r} is no kind of values; expected {', '.join(KINDS)}")


def known_name(origin: str, name: str, kinds: Mapping[str, Any]) -> str:
    """The option that a name means. Raises UsageError naming what may have been meant."""
    known = name.replace("-", "_")
    if known in kinds:
        return known
    close = difflib.get_close_matches(known, kinds, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"What can be tried: {', '.join(sorted(kinds))}."
    raise UsageError(origin, f"{name!r} is no option of finetune that a search can change", hint)


def described(point: Mapping[str, Any]) -> str:
    """A point for people: learning_rate=0.0123 optimizer=sgd"""
    return " ".join(f"{name}={shown(value)}" for name, value in point.items())


def shown(value: Any) -> str:
    """A value as it is written in --try, numbers to four digits."""
    if value is None:
        return LEFT_OUT
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
