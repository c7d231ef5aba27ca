"""Print an evaluation as text or JSON."""

from __future__ import annotations

import json

from tlkit.data.bad_images import error_fields
from tlkit.data.image_file import ImageError
from tlkit.errors import escape_name
from tlkit.files.json_file import label_fields
from tlkit.training.class_pairs import LARGEST_MATRIX
from tlkit.training.evaluation import Evaluation
from tlkit.training.metrics import METRICS, metrics_text


def as_text(result: Evaluation, skipped: list[ImageError]) -> str:
    """Text: a table of classes, the totals and the confusion matrix."""
    names = [escape_name(name) for name in result.classes]
    headline = [name for name, metric in METRICS.items() if metric.headline]
    others = metrics_text(result.figures, [name for name in METRICS if name not in headline])
    width = max(len("class"), *map(len, names))
    lines = [f"{'class':<{width}}  precision  recall      F1  support"]
    rows = zip(names, result.precision, result.recall, result.f1, result.support, strict=True)
    lines += [f"{name:<{width}}  {p:9.4f}  {r:6.4f}  {f1:6.4f}  {support:7d}" for name, p, r, f1, support in rows]
    lines += [
        "",
        f"{metrics_text(result.figures, headline)}  calibration error {result.calibration.error:.4f}  "
        f"images {result.samples}",
        *([others] if others else []),
        "",
        *confusion_lines(result, names),
    ]
    return "\n".join(lines) + "\n"


def confusion_lines(result: Evaluation, names: list[str], largest: int = 20) -> list[str]:
    """The confusion matrix if it fits a terminal, else its largest off-diagonal entries."""
    if len(names) > largest:
        pairs = result.confusion.mistakes()[:largest]
        lines = [f"{images:>6}  {names[true]} predicted as {names[predicted]}" for true, predicted, images in pairs]
        return ["most frequent confusions", *lines]
    matrix = result.confusion.matrix()
    cells = max(len(str(matrix.max())), 3)
    width = max(10, *(len(f"{number} {name}") for number, name in enumerate(names)))
    head = "  ".join(f"{number:>{cells}}" for number in range(len(names)))
    return ["confusion matrix (rows: true class, columns: predicted)", f"{'':<{width}}  {head}"] + [
        f"{f'{number} {name}':<{width}}  " + "  ".join(f"{value:>{cells}}" for value in row)
        for number, (name, row) in enumerate(zip(names, matrix, strict=True))
    ]


def as_json(result: Evaluation, skipped: list[ImageError]) -> str:
    """JSON: the same figures, unrounded. Above LARGEST_MATRIX classes the matrix is null, and its pairs are listed."""
    rows = zip(result.classes, result.precision, result.recall, result.f1, result.support, strict=True)
    few = len(result.classes) <= LARGEST_MATRIX
    value = {
        "images": result.samples,
        **result.figures,
        "calibration_error": result.calibration.error,
        "classes": [
            {**label_fields(name), "precision": float(p), "recall": float(r), "f1": float(f1), "support": int(support)}
            for name, p, r, f1, support in rows
        ],
        "confusion": result.confusion.matrix().tolist() if few else None,
        **({} if few else {"confusion_pairs": result.confusion.pairs().tolist()}),
        "skipped": list(map(error_fields, skipped)),
    }
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


FORMATS = {"text": as_text, "json": as_json}
