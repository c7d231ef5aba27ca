"""Problems that the figures of a run show, each with a command that helps."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from tlkit.data.folder import UNEVEN, majority
from tlkit.reports.facts import Measured, ReportData
from tlkit.reports.markup import shorten
from tlkit.terminal import count
from tlkit.training.evaluation import wilson_interval

BALANCE = "--class-weights balanced --metric macro_f1"
"""Flags that help where classes are imbalanced."""


@dataclass(frozen=True)
class Finding:
    """A problem in a sentence or two, and a command that helps."""

    text: str
    command: str


def headline(measured: Measured, folds: int = 1) -> str:
    """Accuracy with its confidence interval, and the accuracy of always predicting the largest class."""
    evaluation = measured.evaluation
    low, high = wilson_interval(evaluation.correct, evaluation.samples)
    name, baseline = majority_of(measured)
    images = count(evaluation.samples, "validation image")
    if folds > 1:
        images = f"{count(evaluation.samples, 'image')}, each out-of-fold in {folds} folds"
    return (
        f"Accuracy {evaluation.correct / max(1, evaluation.samples):.1%} on {images} "
        f"(95% confidence interval: {low:.1%} to {high:.1%}). Always predicting {quoted(name)}, the largest class, "
        f"has an accuracy of {baseline:.1%}."
    )


def majority_of(measured: Measured) -> tuple[str, float]:
    """The name of the class with the most training images, and its share of the validation images."""
    most, baseline = majority(measured.train_images, measured.evaluation.support.tolist())
    return measured.evaluation.classes[most], baseline


def findings(facts: ReportData) -> list[Finding]:
    """The problems that the figures show, the worst first."""
    measured = facts.measured
    if measured is None or len(measured.train_images) < 2:
        return []
    train, classes = measured.train_images, measured.evaluation.classes
    name, baseline = majority_of(measured)
    most, least = max(train), min(train)
    small = [classes[label] for label, images in enumerate(train) if most > UNEVEN * images]
    found = []
    if measured.evaluation.correct <= baseline * measured.evaluation.samples:
        flags = BALANCE if most > 2 * least else "--unfreeze all"
        text = f"The model is no better than always predicting {quoted(name)}, which has an accuracy of {baseline:.1%}."
        found.append(Finding(text, f"{facts.command} {flags}"))
    if small:
        smallest, is_weighted = classes[train.index(least)], facts.options.get("--class-weights") == "balanced"
        others = count(len(small) - 1, "other class has", "other classes have")
        more = f", and {others} less than a fifth" if len(small) > 1 else ""
        text = (
            f"The classes are imbalanced: {quoted(name)} has {most:,} training images, {quoted(smallest)} only "
            f"{least:,}{more}. Look at the recall of the small classes below. "
            + ("Add images of them." if is_weighted else "Add images of them, or weight the classes.")
        )
        command = f"tlkit check {shlex.quote(facts.data_folder)}" if is_weighted else f"{facts.command} {BALANCE}"
        found.append(Finding(text, command))
    return found


def quoted(name: str) -> str:
    """A class name in a sentence."""
    return f"“{shorten(name, 60)}”"
