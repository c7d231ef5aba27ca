"""Talk for people on standard error: lines, and progress bars where it is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def say(label: str, text: str) -> None:
    """One line with a short label in front, as in `data      5 classes`."""
    print(f"{label:<9} {text}", file=sys.stderr, flush=True)


def progress(items: Iterable[Item], label: str, total: int, unit: str = "image") -> Iterator[Item]:
    """Pass items on, with a bar while they last. Items that are sized tuples or tensors count as their length.

    The bar shows images per second and the time left; it is drawn on a terminal only.
    """
    with tqdm(
        total=total,
        desc=f"{label:<9}",
        unit=unit,
        file=sys.stderr,
        disable=None,
        leave=False,
        dynamic_ncols=True,
    ) as bar:
        for item in items:
            yield item
            bar.update(len(item[0]) if isinstance(item, tuple) else 1)


def count(number: int, singular: str, plural: str | None = None) -> str:
    """1 image, 2 images"""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def compact(number: float) -> str:
    """138357544 -> 138.4 M"""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f}"
