"""Class names that nearly equal each other: in case, spaces, punctuation, or as a plural."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence

NAMED = 5
"""Number of names that a message lists."""


def shortened(names: Sequence[str], most: int = NAMED) -> str:
    """The first names and the number of the others."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def simplified(name: str) -> str:
    """Equal for names that differ in case, spaces, hyphens, underscores or Unicode form."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())
    return re.sub(r"[\s_-]+", " ", folded).strip() or name


def singular(name: str) -> str:
    """Equal for names that differ in a final s, too."""
    plain = simplified(name)
    return plain[:-1] if len(plain) > 3 and plain.endswith("s") and not plain.endswith("ss") else plain


def nearly_equal(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of names that nearly equal each other."""
    return [tuple(group) for group in by_key(singular, names).values() if len(group) > 1]


def matched(names: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Name -> the class that it means: the same, or else the one that nearly equals it, if no other name or class does.

    Names without a class are not in the result.
    """
    found = {name: name for name in names if name in set(classes)}
    for key in (simplified, singular):
        taken = set(found.values())
        left, free = (by_key(key, some) for some in ([n for n in names if n not in found], set(classes) - taken))
        found |= {left[k][0]: free[k][0] for k in left if len(left[k]) == len(free.get(k, ())) == 1}
    return found


def by_key(key: Callable[[str], str], names: Iterable[str]) -> dict[str, list[str]]:
    """Names in groups with the same key."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups


def most_like(name: str, classes: Sequence[str]) -> str | None:
    """The class whose name is most like a name, for a hint; None if none is like it."""
    close = difflib.get_close_matches(simplified(name), [simplified(one) for one in classes], n=1)
    return next((one for one in classes if simplified(one) == close[0]), None) if close else None


def name_warnings(classes: Sequence[str]) -> Iterator[str]:
    """A warning about classes with nearly the same name."""
    groups = [" and ".join(map(repr, group)) for group in nearly_equal(classes)]
    if groups:
        more = f", and {len(groups) - NAMED:,} more" if len(groups) > NAMED else ""
        yield (
            f"these classes have nearly the same name: {'; '.join(groups[:NAMED])}{more}. "
            "If they are the same class, move their images into one folder"
        )
