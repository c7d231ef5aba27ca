"""HTML and SVG made of elements: whatever is not markup already is escaped, so no name from outside becomes any."""

from __future__ import annotations

import html

from tlkit.errors import escape_name

WITHOUT_CONTENT = ("meta", "img", "br")


class Markup(str):
    """Text that is markup already."""


def text(value: object) -> Markup:
    """Any value as text of a page. Control characters, and what reverses the direction of writing, are spelled out."""
    return value if isinstance(value, Markup) else Markup(html.escape(escape_name(str(value))))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. class_ is class, aria_label is aria-label; an attribute that is None or False is left out."""
    words = [name]
    for key, value in attributes.items():
        if value is not None and value is not False:
            words.append(f'{key.rstrip("_").replace("_", "-")}="{"" if value is True else text(value)}"')
    opened = f"<{' '.join(words)}>"
    return Markup(opened if name in WITHOUT_CONTENT else f"{opened}{joined(*children)}</{name}>")


def joined(*parts: object) -> Markup:
    """Parts one after the other; None is nothing."""
    return Markup("".join(text(part) for part in parts if part is not None))
