"""The text of `tlkit COMMAND --help`: arguments, options in groups, examples."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from typing import get_origin, get_type_hints

from tlkit.options.declare import GROUPS, Options, choices_of, flag_of, kinds_of

WIDTH = 80

COLUMN = 26
"""Where the descriptions start."""

GLUE = "\N{NO-BREAK SPACE}"
"""Keeps the words of a note on one line."""

Row = tuple[str, str]
"""An option or command as it is typed, and its description."""


def help_text(usage: str, summary: str, groups: dict[str, list[Row]], examples: tuple[str, ...] = ()) -> str:
    """A page of help, at most WIDTH columns wide apart from examples."""
    parts = [f"Usage: {usage}", textwrap.fill(summary, WIDTH)]
    parts += [f"{title}:\n" + "\n".join(map(row_text, rows)) for title, rows in groups.items()]
    if examples:
        parts.append("Examples:\n" + "\n".join(f"  {line}" for line in examples))
    return "\n\n".join(parts)


def row_text(row: Row) -> str:
    """One option: its name in the first column, its description in the second or below."""
    name, description = row
    margin = " " * COLUMN
    text = textwrap.fill(
        description, WIDTH, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False,
        break_long_words=False,
    ).replace(GLUE, " ")  # fmt: skip
    return f"  {name}\n{text}" if len(name) > COLUMN - 4 else f"  {name}".ljust(COLUMN) + text.lstrip()


def usage_of(command: str, kind: type[Options]) -> str:
    """tlkit predict [OPTIONS] MODEL [PATH]..."""
    words = []
    for field in dataclasses.fields(kind):
        if field.metadata.get("positional"):
            name = argument_name(field)
            words.append(name if field.default is dataclasses.MISSING or "[" in name else f"[{name}]")
    return " ".join([f"tlkit {command} [OPTIONS]", *words])


def groups_of(kind: type[Options]) -> dict[str, list[Row]]:
    """A command's arguments, and its options by group: those of COMMON first, then its own, then inherited ones."""
    hints = get_type_hints(kind)
    groups: dict[str, list[Row]] = {"Arguments": [], **{group: [] for group in GROUPS}}
    for field in ordered_fields(kind):
        if field.metadata.get("positional"):
            groups["Arguments"].append((argument_name(field), describe(field)))
        elif field.name not in kind.HIDDEN:
            group = "Common" if field.name in kind.COMMON else field.metadata["group"]
            names = ", ".join(filter(None, (field.metadata.get("short"), flag_of(field.name))))
            groups[group].append((f"{names} {metavar_of(field, hints[field.name])}".rstrip(), describe(field)))
    groups["Other"].append(("-h, --help", "Show this help and exit"))
    return {title: rows for title, rows in groups.items() if rows}


def ordered_fields(kind: type[Options]) -> list[dataclasses.Field[object]]:
    """The fields in the order of --help."""
    fields = dataclasses.fields(kind)
    arguments = [field.name for field in fields if field.metadata.get("positional")]
    own = [name for parent in kind.__mro__ for name in inspect.get_annotations(parent)]
    order = {name: place for place, name in reversed([*enumerate((*kind.COMMON, *arguments, *own))])}
    return sorted(fields, key=lambda field: order[field.name])


def argument_name(field: dataclasses.Field[object]) -> str:
    """A positional argument as it is written in the usage."""
    return str(field.metadata.get("metavar") or field.name.upper())


def metavar_of(field: dataclasses.Field[object], hint: object) -> str:
    """The placeholder of an option's value: N, FLOAT, FILE, DIR, NAME or literal words; empty for a switch."""
    if field.metadata.get("metavar"):
        return str(field.metadata.get("metavar"))
    words = {int: "N", float: "FLOAT", str: "NAME"}
    plain = [words[kind] for kind in kinds_of(hint) if get_origin(kind) is None and kind in words]
    return "|".join((*plain, *choices_of(hint)))


def describe(field: dataclasses.Field[object]) -> str:
    """The help of an option, with its default and its range: [default: 16; at least 1]

    Switches are off, and arguments have no default. A range that only excludes negative numbers is not shown.
    """
    shown, notes = field.metadata.get("shown"), list[str]()
    smallest, largest = field.metadata.get("minimum"), field.metadata.get("maximum")
    if shown is None and not field.metadata.get("positional") and not isinstance(field.default, bool):
        shown = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
    if shown:
        notes.append(f"default: {shown}")
    if largest is not None and largest <= 4096:
        notes.append(f"{smallest:g} to {largest:g}")
    elif smallest:
        notes.append(f"at least {smallest:g}")
    note = f"[{'; '.join(notes)}]".replace(" ", GLUE)
    return f"{field.metadata['help']} {note}".removesuffix(" []")


def completions_of(field: dataclasses.Field[object], hint: object) -> list[str]:
    """Literal values of an option, for the shell to complete."""
    literals = re.findall(r"\b[a-z]\w*", field.metadata.get("metavar") or "")
    return [*dict.fromkeys((*choices_of(hint), *literals))]
