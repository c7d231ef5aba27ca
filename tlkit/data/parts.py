"""Recognize the parts of a data set, train, validation and test, by the names that public data sets give them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tlkit.data.listing import find_images, holds_only_runs, subfolders

PART_WORDS = {
    **dict.fromkeys(("train", "training", "trainval", "trn", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validating", "validation", "vali", "vld", "dev", "devel"), "val"),
    **dict.fromkeys(("development", "eval", "evaluate", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tests", "tst", "te", "ts", "holdout", "heldout"), "test"),
}
"""Words that name a part. A data set with validation and evaluation folders means its test images by the latter."""

CANONICAL = ("train", "val", "valid", "validation", "test")
"""Names that are preferred where several folders could be the same part, in this order."""

SHORT = ("tr", "te", "ts", "dev")
"""Words that are often names of classes too; they name a part only where the folder has subfolders."""

FILLER = "sets?|data|datasets?|images?|imgs?|pics|pictures|photos|splits?|samples|files|folder|dir|subset|part"
"""Words beside the part: train_images, TestSet, valdata."""

FUSED = re.compile(rf"({'|'.join(sorted(PART_WORDS, key=len, reverse=True))})({FILLER})?")
FILLERS = re.compile(FILLER)


@dataclass(frozen=True)
class Parts:
    """The folders of training, validation and test images, None where there is none. others: names of other folders."""

    train: str | None
    val: str | None
    test: str | None
    others: tuple[str, ...]


@dataclass(frozen=True)
class Name:
    """A folder name, as a part. rest: its other words; rank: how sure it is that the part is meant, 0 is best."""

    name: str
    part: str
    word: str
    rest: tuple[str, ...]
    rank: int


def find_parts(root: str, classes: Sequence[str] = ()) -> Parts:
    """The parts below a folder; all None if its subfolders are classes.

    A folder named like a part counts if no other folders are beside it, or if it is one of several parts.
    classes: known class names. Folders with these names are no parts.
    """
    names = subfolders(root)
    if set(names) <= set(classes):
        return Parts(None, None, None, tuple(names))
    chosen = recognize(names)
    for part, name in [*chosen.items()]:
        if name.lower() in SHORT and not subfolders(os.path.join(root, name)):
            del chosen[part]
    others = [name for name in names if name not in chosen.values()]
    others = [name for name in others if not (chosen and holds_only_runs(os.path.join(root, name)))]
    paths = {part: innermost(os.path.join(root, name)) for part, name in chosen.items()}
    if others and "train" in paths and not (len(paths) > 1 and subfolders(paths["train"])):
        return Parts(None, None, None, tuple(names))
    return Parts(paths.get("train"), paths.get("val"), paths.get("test"), tuple(others))


def recognize(names: Sequence[str]) -> dict[str, str]:
    """Part (train, val, test) -> the folder name that stands for it, among the names of a folder's subfolders."""
    candidates = [found for name in names if (found := parse(name)) is not None]
    known = [
        one
        for one in candidates
        # nature_train is a part beside nature_test; "toy train" beside "toy car" is none.
        if not one.rest or any(other.rest == one.rest and other.part != one.part for other in candidates)
    ]
    ranked = sorted(known, key=lambda one: one.rank)
    chosen: dict[str, str] = {}
    for one in ranked:
        if one.part not in chosen:
            chosen[one.part] = one.name
        elif one.word.startswith("eval") and "test" not in {other.part for other in known}:
            chosen["test"] = one.name
    return chosen


def parse(name: str) -> Name | None:
    """A folder name as the name of a part, if exactly one of its words names one: Train, test_images, valset2017."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    lower = [word.lower() for word in words]
    if lower in (["hold", "out"], ["held", "out"]):
        lower = ["".join(lower)]
    fused = [match for word in lower if (match := FUSED.fullmatch(word))]
    if len(fused) != 1:
        return None
    word = fused[0][1]
    rest = tuple(w for w in lower if w != fused[0][0] and not FILLERS.fullmatch(w))
    if name.lower() in CANONICAL:
        rank = CANONICAL.index(name.lower()) + (0 if name in CANONICAL else len(CANONICAL))
    else:
        rank = 20 if word == name.lower() else 30
    rank += 5 if word in SHORT or word.startswith("eval") else 0
    return Name(name, PART_WORDS[word], word, rest, rank + (100 if rest else 0))


def innermost(folder: str) -> str:
    """Where a part contains nothing but a folder with a name of the same part, as archives unpack it, that folder."""
    while True:
        inside = subfolders(folder)
        name = os.path.basename(folder)
        if len(inside) != 1 or next(find_images(folder, deep=False), None) is not None:
            return folder
        part, inner = parse(name), parse(inside[0])
        if inside[0] != name and not (part and inner and part.part == inner.part):
            return folder
        folder = os.path.join(folder, inside[0])
