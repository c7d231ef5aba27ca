"""The confusion matrix: a table for few classes, a picture for many, and the most frequent confusions."""

from __future__ import annotations

from collections.abc import Sequence

from tlkit.reports.markup import Markup, joined, scrollable, shorten, table, tag
from tlkit.training.class_pairs import Confusion

LARGEST_TABLE = 20
LARGEST_PICTURE = 200
SHADES = 10
LISTED = 15


def confusion_matrix(names: Sequence[str], confusion: Confusion) -> Markup:
    """The matrix, if it is small enough to read, and its largest off-diagonal entries."""
    parts: list[Markup] = []
    if len(names) <= LARGEST_TABLE:
        parts.append(as_table(names, confusion))
    elif len(names) <= LARGEST_PICTURE:
        parts.append(as_picture(names, confusion))
    return joined(*parts, most_frequent(names, confusion))


def as_table(names: Sequence[str], confusion: Confusion) -> Markup:
    """A table with one cell per pair of classes, shaded by the fraction of its row."""
    rows = [
        [tag("th", name, scope="row")]
        + [
            tag("td", count or "·", **cell(names, true, predicted, count, sum(row)))
            for predicted, count in enumerate(row)
        ]
        for true, (name, row) in enumerate(zip(names, confusion.matrix().tolist(), strict=True))
    ]
    corner = tag("td", "true ↓ predicted →", class_="corner")
    head = [corner, *(tag("th", shorten(name), scope="col", title=name) for name in names)]
    note = "Rows: true class. Columns: predicted class. Shade: fraction of the row."
    return joined(tag("p", note, class_="note"), scrollable(table(head, rows, "matrix"), "Confusion matrix"))


def as_picture(names: Sequence[str], confusion: Confusion, side: int = 10) -> Markup:
    """A picture with one square per pair that occurs, and class names at the edges."""
    margin = 8 + 5 * min(20, max(map(len, names)))
    size, support = margin + side * len(names) + 2, confusion.support.tolist()
    squares = [
        tag(
            "rect",
            tag("title", look["title"]),
            x=margin + side * predicted,
            y=margin + side * true,
            width=side - 1,
            height=side - 1,
            class_=look["class_"],
        )
        for true, predicted, count in confusion.pairs().tolist()
        for look in [cell(names, true, predicted, count, support[true])]
    ]
    labels = [
        tag("text", shorten(name), class_=f"name {anchor}", transform=f"translate({x} {y}) rotate({angle})")
        for place, name in enumerate(names)
        for x, y, angle, anchor in (
            (margin - 4, margin + side * place + 8, 0, "end"),
            (margin + side * place + 8, margin - 4, -90, ""),
        )
    ]
    picture = tag(
        "svg",
        tag("title", f"Confusion matrix of {len(names)} classes; the largest entries are listed below"),
        tag("rect", x=margin, y=margin, width=side * len(names), height=side * len(names), class_="field"),
        *labels,
        *squares,
        viewBox=f"0 0 {size} {size}",
        width=size,
        height=size,
        role="img",
    )
    note = "Rows: true class. Columns: predicted class. Hover over a square to see its classes."
    return joined(tag("p", note, class_="note"), scrollable(picture, "Confusion matrix", "heat"))


def most_frequent(names: Sequence[str], confusion: Confusion) -> Markup:
    """The most frequent pairs of true and wrongly predicted class."""
    wrong, support = confusion.mistakes(), confusion.support
    if not wrong:
        return tag("p", "All validation images were classified correctly.", class_="note")
    rows = [
        [
            tag("td", names[true]),
            tag("td", names[predicted]),
            tag("td", f"{count:,}", class_="number"),
            tag("td", f"{count / support[true]:.0%}", class_="number"),
        ]
        for true, predicted, count in wrong[:LISTED]
    ]
    more = f", the first {LISTED} of {len(wrong):,}" if len(wrong) > LISTED else ""
    head = [tag("th", name, scope="col") for name in ("true", "predicted", "images", "of true class")]
    return joined(
        tag("h3", f"Most frequent confusions{more}"),
        scrollable(table(head, rows, "frequent"), "Most frequent confusions"),
    )


def cell(names: Sequence[str], true: int, predicted: int, count: int, support: int) -> dict[str, str]:
    """Title of a cell, and its classes: right or wrong, and one of SHADES. A count above 0 is never invisible."""
    right = true == predicted
    words = (
        f"{names[true]}: {count:,} correct" if right else f"{names[true]} predicted as {names[predicted]}: {count:,}"
    )
    shade = f"{'right' if right else 'wrong'} s{max(1, round(SHADES * count / support))}" if count else "none"
    return {"class_": shade, "title": words}
