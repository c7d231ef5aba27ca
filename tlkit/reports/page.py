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
    header,
    mistakes,
    reliability,
    settings,
    usage,
)
from tlkit.reports.style import STYLE

SECTIONS = (curves, classes, confusions, mistakes, reliability, data, usage, settings)
"""The sections of the page in order."""


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
    sections = [section for build in SECTIONS if (section := build(facts)) is not None]
    links = [tag("li", tag("a", section.title, href=f"#{section.anchor}")) for section in sections]
    contents = tag("nav", tag("ul", *links), aria_label="Contents")
    main = tag("main", contents, *(section.render() for section in sections))
    made = f"Made by tlkit {facts.versions.get('tlkit', '')} on {facts.time}."
    footer = tag("footer", f"{made} This page loads no other files and runs no scripts.")
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', header(facts), main, footer), lang='en')}\n"


def policy() -> str:
    """Content Security Policy: allow only the embedded images and the embedded style sheet."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
