"""The report of a run: one HTML page that needs nothing beside itself, and runs no script."""

from __future__ import annotations

import base64
import hashlib

from tlkit.reports.facts import ReportData
from tlkit.reports.markup import Markup, tag
from tlkit.reports.sections import (
    classes,
    confusions,
    curves,
    data,
    footer,
    header,
    mistakes,
    notes,
    reliability,
    settings,
    usage,
)
from tlkit.reports.style import STYLE

SECTIONS = (notes, curves, classes, confusions, mistakes, reliability, data, usage, settings)
"""What the page shows, in order; each is nothing where a run has nothing to show."""


def render(facts: ReportData) -> str:
    """The whole page."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy()),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{facts.name}, a report by tlkit"),
        tag("style", Markup(STYLE)),
    )
    main = tag("main", *(section(facts) for section in SECTIONS))
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', header(facts), main, footer(facts)), lang='en')}\n"


def policy() -> str:
    """What a browser may do for the page: show the pictures and the one style sheet that it holds, and no more."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
