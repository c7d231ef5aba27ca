"""The programs in benchmarks/ use what tlkit has: names that are there, called as they can be called."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = sorted((Path(__file__).parents[1] / "benchmarks").rglob("*.py"))


def names_of_tlkit(tree: ast.AST) -> dict[str, Any]:
    """What a program imports from tlkit. Raises ImportError or AttributeError for what is not there."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {
        alias.asname or alias.name: getattr(importlib.import_module(node.module), alias.name)
        for node in imports
        if node.module.split(".")[0] == "tlkit"
        for alias in node.names
    }


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_benchmark_uses_what_is_there(path: Path) -> None:
    tree = ast.parse(path.read_text())
    compile(tree, str(path), "exec")
    names = names_of_tlkit(tree)
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in names:
            keywords = {keyword.arg: None for keyword in call.keywords}
            if None not in keywords and not any(isinstance(argument, ast.Starred) for argument in call.args):
                inspect.signature(names[call.func.id]).bind(*call.args, **keywords)
