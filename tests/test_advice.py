"""Advice works when typed: its options exist for the command, paths are quoted, and lists of files are short."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tlkit import cli
from tlkit.errors import MOST_LISTED, DataError
from tlkit.options import suggest

PACKAGE = Path(cli.__file__).parent


def flags(command: str) -> set[str]:
    return suggest.flags_of(cli.options_class(command))


def applicable(hint: str, command: str) -> list[str]:
    return suggest.applicable(hint, command, cli.COMMANDS, cli.options_class)


FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
FOREIGN = {"--port", "--help", "--version", "--install-completion", "--show-completion"}
QUOTED = ("shlex.quote", "shlex.join", "quoted", "path_below")
"""Functions that return text for a shell."""


def texts(package: Path) -> Iterator[tuple[str, str, list[ast.expr]]]:
    """File, text and interpolated values of each string that is not a docstring; a value stands as {} in the text."""
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text())
        inside = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
        documentation = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                values = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
                yield path.name, "".join(getattr(part, "value", "") if isinstance(part, ast.Constant) else "{}"
                                         for part in node.values), values  # fmt: skip
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside | documentation:
                yield path.name, node.value, []


ADVICE = [(file, text) for file, text, _ in texts(PACKAGE) if FLAG.search(text)]


def test_every_option_in_a_message_exists() -> None:
    known = FOREIGN.union(*map(flags, cli.COMMANDS))
    habits = {"suggest.py", "help.py", "style.py"}  # names in other tools, and in CSS
    found = [(file, text) for file, text in ADVICE if file not in habits and not {*FLAG.findall(text)} <= known]
    foreign = ("--max-restarts of torchrun", "ray start", "pip install", "wandb", "tensorboard --logdir")
    assert [(file, text) for file, text in found if not any(word in text for word in foreign)] == []


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_no_command_advises_an_option_that_it_does_not_have(command: str) -> None:
    """Of all texts with options in the package, the lines that this command would print as advice."""
    printed = 0
    for _, text in ADVICE:
        for line in applicable(text, command):
            named = {command, *re.findall(r"\btlkit ([a-z]+)", line)} & cli.COMMANDS.keys()
            typed = set(re.findall(r"(?<!\S)--[a-z][a-z-]*", line))
            own = set[str]().union(*map(flags, named))
            assert typed & set[str]().union(*map(flags, cli.COMMANDS)) <= own, line
            printed += 1
    assert printed


def test_advice_for_another_command_is_left_out() -> None:
    hint = "Restore them.\nIf the folder has moved, add --data DIR.\nOr add --skip-bad.\nOr: tlkit check x --quick"
    assert applicable(hint, "resume") == [hint.splitlines()[n] for n in (0, 1, 3)]
    assert applicable(hint, "finetune") == [hint.splitlines()[n] for n in (0, 2, 3)]
    assert applicable("Start it with: ray start --port=1\npip install --upgrade x", "tune") == [
        "Start it with: ray start --port=1", "pip install --upgrade x"
    ]  # fmt: skip


def test_paths_in_commands_are_quoted() -> None:
    """A value right after the name of a command, or after the value of --out and the like."""
    found = []
    for file, text, values in texts(PACKAGE):
        pieces = text.split("{}")
        for place, value in enumerate(values[: len(pieces) - 1]):
            before = "{}".join(pieces[: place + 1]).rpartition("\n")[2]
            command = re.search(rf"\btlkit ({'|'.join(cli.COMMANDS)}) (\S+ )*$", before)
            if command and not is_quoted(value) and ": " not in before[command.start() :]:
                found.append(f"{file}: {text}")
    assert found == []


def is_quoted(value: ast.expr) -> bool:
    source = ast.unparse(value)
    is_number = source.endswith(("epochs", "20")) or "epochs" in source or source == "self.resume_from"
    names = (
        "flag",
        "run",
        "data",
        "rearranged",
        "named",
        "val",
        "command",
        "more",
        "backbone",
        "output",
    )  # quoted where they are made
    return is_number or source in names or any(name in source for name in QUOTED)


def test_ten_are_listed_and_the_others_counted(capfd: pytest.CaptureFixture[str]) -> None:
    for number in (MOST_LISTED, 400):
        cli.fail(DataError("photos", "cannot be read", "Repair them.", (f"{n}.jpg\n" for n in range(number))), "tlkit")
        lines = capfd.readouterr().err.splitlines()
        assert lines[:2] == ["tlkit: photos: cannot be read", "  0.jpg\\n"] and lines[-1] == "Repair them."
        assert lines[MOST_LISTED + 1 : -1] == ([] if number == MOST_LISTED else ["  and 390 more"])
