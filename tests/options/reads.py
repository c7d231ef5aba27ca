"""Which options a command reads, found in its source and in every module that it imports."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from tlkit.options.declare import Options

Types = dict[str, set[str]]
"""Names, and the classes that they may be instances of."""


def unread_options(kind: type[Options], command: str, package: Path) -> list[str]:
    """The options that no code of a command reads. Checks in the options classes do not count as reading.

    A method or property of the options counts for the options that it reads, if the command uses it.
    """
    classes = {parent.__name__ for parent in kind.__mro__}
    trees = reachable(package / "commands" / f"{command}.py", package)
    own = [ast.parse(file.read_text()) for file in sorted((package / "options").glob("*.py"))]
    members, returned = field_types(trees), return_types([*trees, *own])
    read = {name for tree in trees for name in reads_of(tree, classes, members, returned)}
    methods = {
        function.name: function
        for tree in own
        for body in ast.walk(tree)
        if isinstance(body, ast.ClassDef) and body.name in classes
        for function in body.body
        if isinstance(function, ast.FunctionDef) and function.name != "__post_init__"
    }
    used = [name for name in methods if name in read]
    while used:
        found = {n.attr for n in ast.walk(methods[used.pop()]) if isinstance(n, ast.Attribute) and name_of(n) == "self"}
        used += [name for name in methods if name in found - read]
        read |= found
    return [f.name for f in dataclasses.fields(kind) if f.name not in read | {"debug"} | kind.HIDDEN]


def reachable(start: Path, package: Path) -> list[ast.Module]:
    """A module and all modules of the package that it imports, at whatever depth, except the options."""
    found: dict[Path, ast.Module] = {}
    open_files = [start]
    while open_files:
        file = open_files.pop()
        if file in found or not file.is_file() or file.parent == package / "options":
            continue
        found[file] = ast.parse(file.read_text())
        for node in ast.walk(found[file]):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module), *(f"{node.module}.{name}" for name in names)]
            open_files += [
                package.joinpath(*name.split(".")[1:]).with_suffix(".py")
                for name in names
                if name.startswith(f"{package.name}.")
            ]
    return [*found.values()]


def reads_of(tree: ast.Module, classes: set[str], members: Types, returned: Types) -> Iterator[str]:
    """The attributes of options objects that a module reads."""
    listed = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}

    def visit(node: ast.AST, scope: Types) -> Iterator[str]:
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            scope = {**scope, **annotated(node.args)}
            scope |= {name: types for name, types in assigned(node, scope) if types}
        for child in ast.iter_child_nodes(node):
            yield from visit(child, scope)
        if isinstance(node, ast.Attribute) and types_of(node.value, scope) & classes:
            yield node.attr
        if isinstance(node, ast.Call) and name_of(node) == "getattr" and types_of(node.args[0], scope) & classes:
            yield from listed  # names copied one by one, from a tuple of the module

    def assigned(function: ast.AST, scope: Types) -> Iterator[tuple[str, set[str]]]:
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                yield node.targets[0].id, types_of(node.value, scope)
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                yield node.target.id, named(node.annotation)

    def types_of(node: ast.AST, scope: Types) -> set[str]:
        if isinstance(node, ast.Name):
            return scope.get(node.id, set())
        if isinstance(node, ast.Attribute):
            return members.get(node.attr, set())
        if isinstance(node, ast.Call) and name_of(node) in ("replace", "cast"):
            return set().union(*(types_of(argument, scope) for argument in node.args))
        if isinstance(node, ast.Call):
            owner = node.func.value if isinstance(node.func, ast.Attribute) else node.func
            return {name_of(owner)} | returned.get(name_of(node), set())
        return set()

    return visit(tree, {})


def annotated(arguments: ast.arguments) -> Types:
    """Parameters with their annotated classes."""
    each = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    return {argument.arg: named(argument.annotation) for argument in each}


def field_types(trees: list[ast.Module]) -> Types:
    """Annotated attributes of all classes."""
    found: Types = {}
    for tree in trees:
        for body in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
            for node in ast.walk(body):
                if isinstance(node, ast.AnnAssign):
                    found.setdefault(name_of(node.target), set()).update(named(node.annotation))
                if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                    for name, types in annotated(node.args).items():
                        found.setdefault(name, set()).update(types)
    return found


def return_types(trees: list[ast.Module]) -> Types:
    """Functions with the classes in their return annotation."""
    found: Types = {}
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef):
            found.setdefault(node.name, set()).update(named(node.returns))
    return found


def named(annotation: ast.AST | None) -> set[str]:
    """The names in an annotation."""
    return {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)} if annotation else set()


def name_of(node: ast.AST) -> str:
    """The last name of a call's function, or the owner of an attribute."""
    if isinstance(node, ast.Call):
        return node.func.attr if isinstance(node.func, ast.Attribute) else name_of(node.func)
    if isinstance(node, ast.Attribute):
        return name_of(node.value)
    return node.id if isinstance(node, ast.Name) else ""
