"""Render the report of a run as one self-contained HTML page without scripts."""

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
"""The sections of the page in order; a section without content renders as nothing."""


def render(facts: ReportData) -> str:
    """Return the HTML of the page."""
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
    """Content Security Policy: allow only the embedded images and the embedded style sheet."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
