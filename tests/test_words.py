"""tlkit speaks plain English: none of the listed phrases is in the package, README.md or docs/.

Run this file to list them: python tests/test_words.py [FOLDER]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PEOPLE_FOR_PROCESSES = (
    r"nobody", r"whoever", r"anybody's", r"said", r"told", r"hears?", r"heard", r"talks?", r"talking",
    r"guess(es|ed)?", r"mend(s|ed|ing)?", r"gives? up", r"given up", r"(go|goes|going|went|gone) on", r"say so",
    r"saying so", r"asked for it",
)  # fmt: skip
"""Verbs of people, where a process logs, predicts, stops, resumes or is repaired."""

METAPHORS = (
    r"cannot be had", r"(can|could|to) be had", r"(is|are) not here", r"used up", r"all the same", r"sooner", r"anew",
    r"quicken(s|ed|ing)?", r"by heart", r"of no account", r"costs itself", r"so many", r"made ready to ship",
    r"bec(a|o)mes? of", r"in our words", r"beside the last", r"for people", r"come(s)? first", r"compute alike",
    r"the same bits", r"laid out", r"only counted", r"conducted", r"leave word", r"no word", r"is for this process",
    r"what hinders", r"harms nobody", r"takes? the place of", r"whole command", r"as it lies", r"for what is slow",
    r"work of its own", r"stands? on", r"labellers?", r"unheeded", r"unwatched",
)  # fmt: skip
"""Turns of phrase for which the field has a word."""

VOCABULARY = (
    r"processors?", r"answers?", r"(?<!feature )vectors?", r"seal(s|ed)?", r"unsealed", r"ships?", r"shipped",
    r"spaces? of the cache", r"cache spaces?", r"normalise[sd]?", r"standardise[sd]?", r"synchronise[sd]?",
    r"neighbour", r"colour", r"behaviour", r"initialis\w+", r"optimis\w+", r"recognis\w+", r"serialis\w+",
    r"regularis\w+", r"summaris\w+", r"memoris\w+",
)  # fmt: skip
"""CPU, predictions, features, checksum, export; and American spelling."""

SENTENCES = (
    r"has one image, so none", r"holds a run already", r"already holds a run", r"is no option of", r"is no device",
    r"is no number", r"do not compute", r"so planned from its start", r"more of these are", r"true, down",
    r"predicted, across", r"share right", r"how far probabilities", r"a click marks", r"for programs",
    r"lines of windows", r"inputs in jsonl alone", r"report of a problem", r"as soon as it can",
    r"in the order from which", r"data goes to standard output", r"is looked at before", r"named at once",
    r"what was found", r"what was wished", r"decide the bits", r"met once more", r"with commas between",
    r"a hundredth of it", r"unknown here", r"one after another, so that", r"newest checkpoints kept",
)  # fmt: skip
"""Sentences that readers did not understand."""

NOUN_CLAUSES = re.compile(r'(?:"""|(?<![\w,(] )"|# |\. )(?:What|Whose|Who|Whoever|Nobody|That which)\b(?![^?]*\?)')
"""A sentence that starts with "What ..." and asks nothing."""

PHRASES = re.compile(
    rf"\b(?:{'|'.join((*PEOPLE_FOR_PROCESSES, *METAPHORS, *VOCABULARY, *SENTENCES))})\b", re.IGNORECASE
)

FILES = [
    *sorted((ROOT / "tlkit").rglob("*.py")),
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "decisions" not in path.parts),
]


def riddles(text: str) -> list[str]:
    """Every line with a listed phrase, as "LINE NUMBER: PHRASE: LINE"."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        for match in (*PHRASES.finditer(line), *NOUN_CLAUSES.finditer(line)):
            found.append(f"{number}: {match[0].strip()}: {line.strip()}")
    return found


def riddles_in(files: list[Path]) -> list[str]:
    return [f"{path.relative_to(ROOT)}:{riddle}" for path in files for riddle in riddles(path.read_text())]


def test_every_sentence_is_plain() -> None:
    found = riddles_in(FILES)
    assert found == [], "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "Nobody is told of the search but its user.", 'help="What the network computes in."', '"""What was found."""',
        "its pretrained weights cannot be had here", "Go on with: tlkit resume RUN", "on the processor",
    ],
)  # fmt: skip
def test_a_riddle_is_found(line: str) -> None:
    assert riddles(line)


@pytest.mark.parametrize(
    "line", ["## What does it do?", "Print a one-line summary of the dataset.", "a CPU", "normalize"]
)
def test_plain_sentences_pass(line: str) -> None:
    assert not riddles(line)


if __name__ == "__main__":
    print("\n".join(line for line in riddles_in(FILES) if line.startswith(tuple(sys.argv[1:] or [""]))))
