"""The header of the report page and its sections; None for a section without content."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tlkit.reports.charts import Series, line_chart, reliability_chart
from tlkit.reports.confusion import confusion_matrix
from tlkit.reports.facts import Mistake, ReportData
from tlkit.reports.findings import findings, headline
from tlkit.reports.markup import Markup, joined, scrollable, table, tag
from tlkit.training.metrics import METRICS, history_key, shown_metrics

LISTED_EPOCHS = 200
LISTED_CLASSES = 500
LISTED_IMAGES = 20


class Section(NamedTuple):
    """A section of the page: heading, one explanatory sentence, content."""

    title: str
    about: str
    content: Markup

    @property
    def anchor(self) -> str:
        """Its name in links."""
        return self.title.lower().replace(" ", "-")

    def render(self) -> Markup:
        note = tag("p", self.about, class_="about") if self.about else None
        return tag("section", tag("h2", self.title), note, self.content, id=self.anchor)


def header(facts: ReportData) -> Markup:
    """Name of the run, what its figures say, and the figures."""
    figures = [
        tag("div", tag("dt", name), tag("dd", value), tag("dd", remark or Markup("&nbsp;"), class_="remark"))
        for name, value, remark in tiles(facts)
    ]
    return tag(
        "header",
        tag("p", "Training report", class_="eyebrow"),
        tag("h1", facts.name),
        tag("p", facts.model, class_="about"),
        tag("p", headline(facts.measured, facts.folds), class_="headline") if facts.measured is not None else None,
        *(
            tag("div", tag("p", finding.text), tag("code", finding.command), class_="callout")
            for finding in findings(facts)
        ),
        *(tag("p", note, class_="callout") for note in facts.notes),
        tag("dl", *figures, class_="tiles"),
    )


def tiles(facts: ReportData) -> list[tuple[str, str, str]]:
    """The figures at the top: (name, value, remark)."""
    found = [
        ("classes", f"{facts.classes:,}", f"{facts.train_images:,} training images"),
        (
            ("cross-validation", f"{facts.folds} folds", "each image predicted by a head that has not seen it")
            if facts.folds > 1
            else ("validation images", f"{facts.val_images:,}", "not used for training")
        ),
        ("training time", duration(sum(row.seconds for row in facts.history)), "sum over epochs"),
    ]
    if facts.best is None:
        return [("state", facts.state, f"{len(facts.history)} epochs so far"), *found]
    if facts.measured is not None:
        evaluation = facts.measured.evaluation
        found = [
            (
                "mistakes",
                f"{evaluation.samples - evaluation.correct:,}",
                f"of {evaluation.samples:,} validation images",
            ),
            ("calibration error", f"{evaluation.calibration.error:.1%}", "gap between confidence and accuracy"),
            *found,
        ]
    remarks = {facts.metric: f"best epoch: {facts.best.epoch} of {len(facts.history)}"}
    figures = [
        (metric.label, metric.report_text(facts.best.val[name]), remarks.get(name, ""))
        for name, metric in sorted(shown_metrics(facts.metric).items(), key=lambda item: item[0] != facts.metric)
    ]
    return [*figures, *found]


def curves(facts: ReportData) -> Section | None:
    """Line charts of losses, metrics and learning rate by epoch."""
    if not facts.history:
        return None
    best = facts.best.epoch if facts.best is not None else None

    def of_metric(name: str) -> list[Series]:
        train = [(row.epoch, row.train[name]) for row in facts.history if name in row.train]
        val = [(row.epoch, row.val[name]) for row in facts.history if name in row.val]
        return [Series("training", "train", train), Series("validation", "val", val)]

    shown = {"loss": METRICS["loss"], **shown_metrics(facts.metric)}
    rate = Series("at the end of the epoch", "other", [(row.epoch, row.learning_rate) for row in facts.history])
    charts = [
        *(line_chart(m.label[:1].upper() + m.label[1:], m.about, of_metric(name), best) for name, m in shown.items()),
        line_chart("Learning rate", "head", [rate], best),
    ]
    return Section(
        "Learning curves",
        "If the validation curve gets worse while the training curve improves, the model is overfitting.",
        joined(tag("div", *charts, class_="charts"), epochs_table(facts)),
    )


def epochs_table(facts: ReportData) -> Markup:
    """The curves as a table, one row per epoch."""
    columns = {
        "epoch": "epoch",
        "training loss": "train_loss",
        "validation loss": "val_loss",
        "training accuracy": "train_accuracy",
        "validation accuracy": "val_accuracy",
        **{METRICS[name].label: history_key(name) for name in METRICS if name not in ("loss", "accuracy")},
        "learning rate": "learning_rate",
        "seconds": "seconds",
    }
    every = -(-len(facts.history) // LISTED_EPOCHS)
    best = facts.best.epoch if facts.best is not None else None
    rows = [
        [
            tag("td", plain(row.to_dict().get(key)), class_="number chosen" if chosen else "number")
            for key in columns.values()
        ]
        for place, row in enumerate(facts.history)
        for chosen in [row.epoch == best]
        if place % every == 0 or chosen or place == len(facts.history) - 1
    ]
    head = [tag("th", name, scope="col", class_="number") for name in columns]
    name = "Table of epochs" if every == 1 else f"Table of epochs (every {every}th)"
    return tag("details", tag("summary", name), scrollable(table(head, rows), name))


def classes(facts: ReportData) -> Section | None:
    """One row per class, lowest F1 first, with a bar for its F1."""
    if facts.measured is None:
        return None
    figures = facts.measured.evaluation
    counts = (figures.support, facts.measured.train_images)
    columns = (figures.classes, figures.f1, figures.precision, figures.recall, *counts)
    worst = np.lexsort((figures.f1, figures.support == 0))[:LISTED_CLASSES].tolist()
    ordered = ([column[label] for column in columns] for label in worst)
    rows = []
    for name, f1, precision, recall, support, train in ordered:
        bar = tag(
            "svg",
            tag("rect", width=60, height=8, rx=2, class_="rail"),
            tag("rect", width=round(60 * f1, 1), height=8, rx=2, class_="share"),
            viewBox="0 0 60 8",
            width=60,
            height=8,
            aria_hidden="true",
        )
        numbers = (f"{precision:.1%}", f"{recall:.1%}", f"{support:,}", f"{train:,}")
        first = [tag("th", name, scope="row"), tag("td", bar, tag("span", f"{f1:.1%}"), class_="number")]
        rows.append(first + [tag("td", number, class_="number") for number in numbers])
    head = [tag("th", "class", scope="col")] + [
        tag("th", name, scope="col", class_="number")
        for name in ("F1", "precision", "recall", "validation images", "training images")
    ]
    many = f" first, {LISTED_CLASSES} of {facts.classes:,} classes (all: tlkit evaluate --format json)."
    order = "Lowest F1" + (many if facts.classes > LISTED_CLASSES else " first.")
    return Section(
        "Per class",
        f"{order} Precision: how many of the images predicted as this class belong to it. Recall: how many of the "
        "images of this class were found. F1 is the harmonic mean of both.",
        scrollable(table(head, rows, "classes"), "Per class", "tall" if len(rows) > 30 else ""),
    )


def confusions(facts: ReportData) -> Section | None:
    """The confusion matrix."""
    if facts.measured is None:
        return None
    evaluation = facts.measured.evaluation
    return Section("Confusion matrix", "", confusion_matrix(evaluation.classes, evaluation.confusion))


def mistakes(facts: ReportData) -> Section | None:
    """The most confident wrong predictions, with thumbnails."""
    if facts.measured is None or not facts.measured.mistakes:
        return None
    shown, evaluation = facts.measured.mistakes, facts.measured.evaluation
    about = (
        "Wrong predictions on validation images, most confident first. They show which classes the model confuses, "
        "and often reveal images in the wrong folder."
    )
    every = evaluation.samples - evaluation.correct
    more = f" {len(shown)} of {every:,}; all are in validation.jsonl." if every > len(shown) else ""
    return Section("Most confident mistakes", about + more, tag("ul", *map(card, shown), class_="cards"))


def card(mistake: Mistake) -> Markup:
    """A thumbnail with its predicted and its true class."""
    if mistake.thumbnail is None:
        picture = tag("div", "image not found", class_="absent")
    else:
        source = f"data:image/jpeg;base64,{base64.b64encode(mistake.thumbnail).decode()}"
        alt = f"{mistake.path}, a {mistake.label}"
        picture = tag("img", src=source, alt=alt, width=160, height=160)
    return tag(
        "li",
        picture,
        tag("p", tag("b", mistake.predicted, class_="wrong-name"), f" {mistake.probability:.1%}"),
        tag("p", "true: ", tag("b", mistake.label)),
        tag("p", mistake.path, class_="path"),
    )


def reliability(facts: ReportData) -> Section | None:
    """The reliability diagram: confidence against accuracy."""
    if facts.measured is None:
        return None
    about = (
        "How well confidence matches accuracy. A bar below its short line means that the model is overconfident there. "
        "The pale bars at the bottom show how many images fall into each range."
    )
    chart = tag("figure", reliability_chart(facts.measured.evaluation.calibration), class_="chart")
    error = f"Expected calibration error: {facts.measured.evaluation.calibration.error:.1%}."
    return Section("Reliability", about, joined(tag("div", chart, class_="charts"), tag("p", error, class_="note")))


def data(facts: ReportData) -> Section:
    """The dataset, its warnings, and the images that were left out."""
    warnings = [
        tag("li", first, *(tag("code", line.strip(), class_="line") for line in more if line.strip()))
        for first, *more in (warning.split("\n") for warning in facts.warnings)
    ]
    named = [tag("li", tag("code", path), f": {why}") for path, why in facts.skipped[:LISTED_IMAGES]]
    rest = len(facts.skipped) - len(named)
    left_out = tag("ul", *named, tag("li", f"and {rest:,} more, in skipped.jsonl") if rest else None)
    return Section(
        "Data",
        facts.data,
        joined(
            tag("ul", *warnings, class_="warnings") if warnings else tag("p", "No warning.", class_="note"),
            joined(tag("h3", f"Left out: {len(facts.skipped):,}"), left_out) if facts.skipped else None,
        ),
    )


def usage(facts: ReportData) -> Section:
    """Commands to copy."""
    run, data = facts.folder, facts.data_folder  # quoted by for_shell
    commands = {
        "Predict": f"tlkit predict {run} IMAGE...",
        "Predict a folder as JSON lines": f"tlkit predict {run} FOLDER --format jsonl",
        "Evaluate": f"tlkit evaluate {run} {data}",
        "Export": f"tlkit export {run} --format onnx --output model.onnx",
        "Train longer": f"tlkit resume {run} --epochs {len(facts.history) + 20}",
    }
    rows = [joined(tag("dt", name), tag("dd", tag("code", command))) for name, command in commands.items()]
    return Section(
        "How to use the model",
        "Click to select a command. Commands accept the run folder or the self-contained model.pt in it.",
        tag("dl", *rows, class_="commands"),
    )


def settings(facts: ReportData) -> Section:
    """Options and versions needed to reproduce the run."""
    rest = {name: value for name, value in facts.options.items() if name not in facts.given}
    return Section(
        "Options and versions",
        "",
        joined(
            pairs("Given", facts.given) if facts.given else None,
            tag("details", tag("summary", "All other options"), pairs("", rest)),
            pairs("Versions and machine", facts.versions) if facts.versions else None,
        ),
    )


def pairs(title: str, values: Mapping[str, str]) -> Markup:
    """A two-column table of names and values."""
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in values.items()]
    return joined(
        tag("h3", title) if title else None,
        scrollable(tag("table", tag("tbody", *rows), class_="pairs"), title or "Options"),
    )


def duration(seconds: float) -> str:
    """75 -> 1:15 min"""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def plain(value: object) -> str:
    """A cell of the epoch table."""
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
