"""Build HTML and SVG. Everything that is not Markup is escaped, so user-supplied names cannot inject markup."""

from __future__ import annotations

import html
from collections.abc import Iterable

from tlkit.errors import escape_name

WITHOUT_CONTENT = ("meta", "img", "br")


class Markup(str):
    """Text that is already HTML or SVG."""


def text(value: object) -> Markup:
    """Escape a value for the page. Control and text-direction characters are escaped."""
    return value if isinstance(value, Markup) else Markup(html.escape(escape_name(str(value))))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. class_ becomes class, aria_label becomes aria-label; None and False are omitted."""
    words = [name]
    for key, value in attributes.items():
        if value is not None and value is not False:
            words.append(f'{key.rstrip("_").replace("_", "-")}="{"" if value is True else text(value)}"')
    opened = f"<{' '.join(words)}>"
    return Markup(opened if name in WITHOUT_CONTENT else f"{opened}{joined(*children)}</{name}>")


def joined(*parts: object) -> Markup:
    """Concatenate parts; None is skipped."""
    return Markup("".join(text(part) for part in parts if part is not None))


def table(head: Iterable[object], rows: Iterable[Iterable[object]], look: str | None = None) -> Markup:
    """A table of cells (td or th elements). look: its CSS class."""
    body = [tag("tr", *row) for row in rows]
    return tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_=look)


def scrollable(content: object, label: str, look: str = "") -> Markup:
    """Content that scrolls where it is wider than the page, also by keyboard. look: more CSS classes."""
    return tag("div", content, class_=f"scroll {look}".rstrip(), tabindex=0, role="region", aria_label=label)


def shorten(name: str, most: int = 20) -> str:
    """A long name without its middle: names often differ only at their ends."""
    head = -(-(most - 1) // 2)
    return name if len(name) <= most else f"{name[:head]}…{name[len(name) - (most - 1 - head) :]}"
