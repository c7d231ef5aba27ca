"""The sections of the report page, from header to footer. A section without content renders as nothing."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from tlkit.reports.charts import Series, line_chart, reliability_chart
from tlkit.reports.confusion import confusion_matrix
from tlkit.reports.facts import Mistake, ReportData
from tlkit.reports.markup import Markup, joined, scrollable, table, tag
from tlkit.training.metrics import METRICS, history_key, shown_metrics

LISTED_EPOCHS = 200
LISTED_IMAGES = 20


def section(title: str, about: str, *content: object) -> Markup:
    """A section: heading, one explanatory sentence, content."""
    note = tag("p", about, class_="about") if about else None
    return tag("section", tag("h2", title), note, *content)


def header(facts: ReportData) -> Markup:
    """Name of the run and its main figures."""
    figures = [
        tag("div", tag("dt", name), tag("dd", value), tag("dd", remark or Markup("&nbsp;"), class_="remark"))
        for name, value, remark in tiles(facts)
    ]
    return tag(
        "header",
        tag("p", "Training report", class_="eyebrow"),
        tag("h1", facts.name),
        tag("p", facts.model, class_="about"),
        tag("dl", *figures, class_="tiles"),
    )


def tiles(facts: ReportData) -> list[tuple[str, str, str]]:
    """The figures at the top: (name, value, remark)."""
    found = [
        ("classes", f"{facts.classes:,}", f"{facts.train_images:,} training images"),
        ("validation images", f"{facts.val_images:,}", "not used for training"),
        ("training time", duration(sum(row.seconds for row in facts.history)), "sum over epochs"),
    ]
    if facts.best is None:
        return [("state", facts.state, f"{len(facts.history)} epochs so far"), *found]
    if facts.measured is not None:
        evaluation = facts.measured.evaluation
        found = [
            ("mistakes", f"{facts.measured.mistaken:,}", f"of {evaluation.samples:,} validation images"),
            ("calibration error", f"{evaluation.calibration.error:.1%}", "gap between confidence and accuracy"),
            *found,
        ]
    remarks = {facts.metric: f"best epoch: {facts.best.epoch} of {len(facts.history)}"}
    figures = [
        (metric.label, metric.report_text(facts.best.val[name]), remarks.get(name, ""))
        for name, metric in sorted(shown_metrics(facts.metric).items(), key=lambda item: item[0] != facts.metric)
    ]
    return [*figures, *found]


def notes(facts: ReportData) -> Markup:
    """Notes about missing parts of the page."""
    return joined(*(tag("p", note, class_="callout") for note in facts.notes))


def curves(facts: ReportData) -> Markup:
    """Line charts of losses, metrics and learning rate by epoch."""
    if not facts.history:
        return Markup()
    best = facts.best.epoch if facts.best is not None else None

    def of_metric(name: str) -> list[Series]:
        train = [(row.epoch, row.train[name]) for row in facts.history if name in row.train]
        val = [(row.epoch, row.val[name]) for row in facts.history if name in row.val]
        return [Series("training", "train", train), Series("validation", "val", val)]

    shown = {"loss": METRICS["loss"], **shown_metrics(facts.metric)}
    rate = Series("at the end of the epoch", "other", [(row.epoch, row.learning_rate) for row in facts.history])
    charts = [
        *(line_chart(upper_first(m.label), m.about, of_metric(name), best) for name, m in shown.items()),
        line_chart("Learning rate", "head", [rate], best),
    ]
    return section(
        "Learning curves",
        "If the validation curve gets worse while the training curve improves, the model is overfitting.",
        tag("div", *charts, class_="charts"),
        epochs_table(facts),
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


def classes(facts: ReportData) -> Markup:
    """One row per class, lowest F1 first, with a bar for its F1."""
    if facts.measured is None:
        return Markup()
    figures = facts.measured.evaluation
    columns = (figures.classes, figures.f1, figures.precision, figures.recall, figures.support)
    ordered = sorted(
        zip(*columns, facts.measured.train_images, strict=True), key=lambda values: (values[4] == 0, values[1])
    )
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
    return section(
        "Per class",
        "Lowest F1 first. Precision: how many of the images predicted as this class belong to it. Recall: how many "
        "of the images of this class were found. F1 is the harmonic mean of both.",
        scrollable(table(head, rows, "classes"), "Per class", "tall" if len(rows) > 30 else ""),
    )


def confusions(facts: ReportData) -> Markup:
    """The confusion matrix."""
    if facts.measured is None:
        return Markup()
    evaluation = facts.measured.evaluation
    return section("Confusion matrix", "", confusion_matrix(evaluation.classes, evaluation.confusion))


def mistakes(facts: ReportData) -> Markup:
    """The most confident wrong predictions, with thumbnails."""
    if facts.measured is None or not facts.measured.mistakes:
        return Markup()
    shown, all_of_them = facts.measured.mistakes, facts.measured.mistaken
    about = (
        "Wrong predictions on validation images, most confident first. They show which classes the model confuses, "
        "and often reveal images in the wrong folder."
    )
    more = f" {len(shown)} of {all_of_them:,}; all are in validation.jsonl." if all_of_them > len(shown) else ""
    return section("Most confident mistakes", about + more, tag("ul", *map(card, shown), class_="cards"))


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


def reliability(facts: ReportData) -> Markup:
    """The reliability diagram: confidence against accuracy."""
    if facts.measured is None:
        return Markup()
    about = (
        "How well confidence matches accuracy. A bar below its short line means that the model is overconfident there. "
        "The pale bars at the bottom show how many images fall into each range."
    )
    chart = tag("figure", reliability_chart(facts.measured.evaluation.calibration), class_="chart")
    error = f"Expected calibration error: {facts.measured.evaluation.calibration.error:.1%}."
    return section("Reliability", about, tag("div", chart, class_="charts"), tag("p", error, class_="note"))


def data(facts: ReportData) -> Markup:
    """The dataset, its warnings, and the images that were left out."""
    warnings = [tag("li", *lines(warning)) for warning in facts.warnings]
    named = [tag("li", tag("code", path), f": {why}") for path, why in facts.skipped[:LISTED_IMAGES]]
    rest = len(facts.skipped) - len(named)
    left_out = tag("ul", *named, tag("li", f"and {rest:,} more, in skipped.jsonl") if rest else None)
    return section(
        "Data",
        facts.data,
        tag("ul", *warnings, class_="warnings") if warnings else tag("p", "No warning.", class_="note"),
        joined(tag("h3", f"Left out: {len(facts.skipped):,}"), left_out) if facts.skipped else None,
    )


def lines(warning: str) -> list[object]:
    """First line of a warning as text, the other lines as code."""
    first, _, rest = warning.partition("\n")
    return [first, *(tag("code", line.strip(), class_="line") for line in rest.split("\n") if line.strip())]


def usage(facts: ReportData) -> Markup:
    """Commands to copy."""
    run = facts.folder
    commands = {
        "Predict": f"tlkit predict {run} IMAGE...",
        "Predict a folder as JSON lines": f"tlkit predict {run} FOLDER --format jsonl",
        "Evaluate": f"tlkit evaluate {run} {facts.data_folder}",
        "Export": f"tlkit export {run} --format onnx --output model.onnx",
        "Train longer": f"tlkit resume {run} --epochs {len(facts.history) + 20}",
    }
    rows = [joined(tag("dt", name), tag("dd", tag("code", command))) for name, command in commands.items()]
    return section(
        "How to use the model",
        "Click to select a command. Commands accept the run folder or the self-contained model.pt in it.",
        tag("dl", *rows, class_="commands"),
    )


def settings(facts: ReportData) -> Markup:
    """Options and versions needed to reproduce the run."""
    rest = {name: value for name, value in facts.options.items() if name not in facts.given}
    return section(
        "Options and versions",
        "",
        pairs("Given", facts.given) if facts.given else None,
        tag("details", tag("summary", "All other options"), pairs("", rest)),
        pairs("Versions and machine", facts.versions) if facts.versions else None,
    )


def pairs(title: str, values: Mapping[str, str]) -> Markup:
    """A two-column table of names and values."""
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in values.items()]
    return joined(
        tag("h3", title) if title else None,
        scrollable(tag("table", tag("tbody", *rows), class_="pairs"), title or "Options"),
    )


def footer(facts: ReportData) -> Markup:
    version = facts.versions.get("tlkit", "")
    return tag(
        "footer", f"Made by tlkit {version} on {facts.time}. This page loads no other files and runs no scripts."
    )


def upper_first(text: str) -> str:
    """macro F1 -> Macro F1"""
    return text[:1].upper() + text[1:]


def duration(seconds: float) -> str:
    """75 -> 1:15 min"""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def plain(value: object) -> str:
    """A cell of the epoch table."""
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
