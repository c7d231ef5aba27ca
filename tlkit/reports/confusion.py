"""The confusion matrix: a table for few classes, a picture for many, and the most frequent confusions."""

from __future__ import annotations

from collections.abc import Sequence

from tlkit.reports.markup import Markup, joined, tag

LARGEST_TABLE = 20
LARGEST_PICTURE = 200
SHADES = 10
LISTED = 15

Matrix = Sequence[Sequence[int]]
"""Rows are the true class, columns the predicted one."""


def confusion_matrix(names: Sequence[str], matrix: Matrix) -> Markup:
    """The matrix, if it is small enough to read, and its largest off-diagonal entries."""
    parts: list[Markup] = []
    if len(names) <= LARGEST_TABLE:
        parts.append(as_table(names, matrix))
    elif len(names) <= LARGEST_PICTURE:
        parts.append(as_picture(names, matrix))
    return joined(*parts, most_frequent(names, matrix))


def as_table(names: Sequence[str], matrix: Matrix) -> Markup:
    """A table with one cell per pair of classes, shaded by the fraction of its row."""
    head = [tag("th", shortened(name), scope="col", title=name) for name in names]
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            *(
                tag(
                    "td",
                    count or "·",
                    class_=look(count, row, true == predicted),
                    title=cell_title(names, true, predicted, count),
                )
                for predicted, count in enumerate(row)
            ),
        )
        for true, (name, row) in enumerate(zip(names, matrix, strict=True))
    ]
    note = "Rows: true class. Columns: predicted class. Shade: fraction of the row."
    corner = tag("td", "true ↓ predicted →", class_="corner")
    table = tag(
        "table",
        tag("thead", tag("tr", corner, *head)),
        tag("tbody", *rows),
        class_="matrix",
    )
    scroll = tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="Confusion matrix")
    return joined(tag("p", note, class_="note"), scroll)


def as_picture(names: Sequence[str], matrix: Matrix, side: int = 10) -> Markup:
    """A picture with one square per pair that occurs, and class names at the edges."""
    margin = 8 + 5 * min(20, max(map(len, names)))
    size = margin + side * len(names) + 2
    squares = [
        tag(
            "rect",
            tag("title", cell_title(names, true, predicted, count)),
            x=margin + side * predicted,
            y=margin + side * true,
            width=side - 1,
            height=side - 1,
            class_=look(count, row, true == predicted),
        )
        for true, row in enumerate(matrix)
        for predicted, count in enumerate(row)
        if count
    ]
    lines = [
        joined(
            tag("text", shortened(name), x=margin - 4, y=margin + side * place + 8, class_="name end"),
            tag(
                "text",
                shortened(name),
                transform=f"translate({margin + side * place + 8} {margin - 4}) rotate(-90)",
                class_="name",
            ),
        )
        for place, name in enumerate(names)
    ]
    field = tag("rect", x=margin, y=margin, width=side * len(names), height=side * len(names), class_="field")
    picture = tag(
        "svg",
        tag("title", f"Confusion matrix of {len(names)} classes; the largest entries are listed below"),
        field,
        *lines,
        *squares,
        viewBox=f"0 0 {size} {size}",
        width=size,
        height=size,
        role="img",
    )
    note = "Rows: true class. Columns: predicted class. Hover over a square to see its classes."
    return joined(
        tag("p", note, class_="note"),
        tag("div", picture, class_="scroll heat", tabindex=0, role="region", aria_label="Confusion matrix"),
    )


def most_frequent(names: Sequence[str], matrix: Matrix) -> Markup:
    """The most frequent pairs of true and wrongly predicted class."""
    wrong = [
        (count, true, predicted)
        for true, row in enumerate(matrix)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    if not wrong:
        return tag("p", "All validation images were classified correctly.", class_="note")
    wrong.sort(key=lambda entry: (-entry[0], entry[1], entry[2]))
    rows = [
        tag(
            "tr",
            tag("td", names[true]),
            tag("td", names[predicted]),
            tag("td", f"{count:,}", class_="number"),
            tag("td", f"{count / sum(matrix[true]):.0%}", class_="number"),
        )
        for count, true, predicted in wrong[:LISTED]
    ]
    head = [tag("th", name, scope="col") for name in ("true", "predicted", "images", "of true class")]
    more = f", the first {LISTED} of {len(wrong)}" if len(wrong) > LISTED else ""
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *rows), class_="frequent")
    return joined(tag("h3", f"Most frequent confusions{more}"), tag("div", table, class_="scroll"))


def look(count: int, row: Sequence[int], right: bool) -> str:
    """CSS classes of a cell: right or wrong, and one of SHADES shades. A count above 0 is never invisible."""
    if not count:
        return "none"
    return f"{'right' if right else 'wrong'} s{max(1, round(SHADES * count / sum(row)))}"


def cell_title(names: Sequence[str], true: int, predicted: int, count: int) -> str:
    return (
        f"{names[true]} predicted as {names[predicted]}: {count:,}"
        if true != predicted
        else f"{names[true]}: {count:,} correct"
    )


def shortened(name: str, most: int = 20) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
