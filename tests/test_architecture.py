"""Imports go one way only, heavy libraries stay out of light modules, and unsafe calls out of everything."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tlkit"
FILES = sorted(PACKAGE.rglob("*.py"))

# Imports between folders go one way: a folder, or a module of the top level, may import what its row names and itself.
ALLOWED = {
    "": set(),
    "__main__": {"cli"},
    "cli": {"memory_limit", "commands", "distributed", "options", "terminal", "versions", "interruption", "errors"},
    "commands": {
        "tuning", "runs", "inference", "monitoring", "features", "reports", "export", "model", "training", "devices",
        "data", "distributed", "files", "options", "terminal", "versions", "interruption", "errors",
    },
    "tuning": {
        "runs", "features", "reports", "model", "training", "devices", "data", "distributed", "files", "options",
        "terminal", "interruption", "errors",
    },
    "runs": {
        "monitoring", "features", "reports", "model", "training", "devices", "data", "distributed", "files", "options",
        "terminal", "versions", "interruption", "errors",
    },
    "inference": {
        "features", "export", "model", "training", "devices", "data", "files", "options", "versions", "terminal",
        "errors",
    },
    "monitoring": {"reports", "files", "options", "terminal", "errors"},
    "features": {
        "export", "model", "devices", "data", "distributed", "files", "options", "versions", "terminal", "errors",
    },
    "reports": {"training", "data", "files", "options", "terminal", "errors"},
    "export": {"model", "files", "versions", "errors"},
    "model": {"devices", "data", "files", "options", "terminal", "interruption", "errors"},
    "training": {"devices", "distributed", "options", "errors"},
    "devices": {"distributed", "options", "terminal", "errors"},
    "data": {"distributed", "files", "options", "terminal", "errors"},
    "distributed": {"files", "options", "terminal", "interruption", "errors"},
    "files": {"options", "errors"},
    "options": {"errors"},
    "terminal": {"interruption", "errors"},
    "versions": {"errors"},
    "interruption": set(),
    "errors": {"memory_limit"},
    "memory_limit": set(),
}  # fmt: skip

LONGEST_FUNCTION, MOST_PARAMETERS = 50, 7
MOST_COMMANDS, MOST_COMMAND_LINES = 16, 1500
LARGEST_SHARE = 0.2

ORDER = [*list(ALLOWED)[1:]]
"""From the outermost to the innermost: every row of the table names only what stands after it."""

WITHOUT_TORCH = [
    "tlkit.cli", "tlkit.commands.check", "tlkit.commands.finetune", "tlkit.commands.predict", "tlkit.commands.report",
    "tlkit.commands.resume", "tlkit.commands.tune", "tlkit.data.bad_images", "tlkit.data.decoders",
    "tlkit.data.duplicates", "tlkit.data.folder", "tlkit.data.listing", "tlkit.data.scan", "tlkit.data.sources",
    "tlkit.devices.nvml",
    "tlkit.devices.request", "tlkit.distributed.env", "tlkit.distributed.failures", "tlkit.distributed.join",
    "tlkit.distributed.launch", "tlkit.distributed.world", "tlkit.errors", "tlkit.features.onnx_graphs",
    "tlkit.features.store", "tlkit.files.archive", "tlkit.files.atomic", "tlkit.files.description",
    "tlkit.files.inputs", "tlkit.files.json_file", "tlkit.files.onnx_file", "tlkit.files.pickles",
    "tlkit.files.new_run", "tlkit.files.run_folder", "tlkit.files.checksum", "tlkit.inference.input_paths",
    "tlkit.inference.onnx_predictor",
    "tlkit.inference.open", "tlkit.inference.predictor", "tlkit.inference.stream", "tlkit.inference.writers",
    "tlkit.interruption", "tlkit.monitoring.run_monitor", "tlkit.options", "tlkit.options.declare",
    "tlkit.options.space", "tlkit.runs.machine",
    "tlkit.options.tune", "tlkit.reports.val_predictions_file", "tlkit.runs.consistency", "tlkit.runs.reopen",
    "tlkit.terminal", "tlkit.training.evaluation", "tlkit.training.metrics", "tlkit.training.objective",
    "tlkit.tuning.cluster", "tlkit.tuning.leaderboard", "tlkit.tuning.results", "tlkit.tuning.samplers",
    "tlkit.tuning.start", "tlkit.versions",
]  # fmt: skip


def imported_modules(tree: ast.AST) -> set[str]:
    """Every module that a file names in an import, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def module_of(path: Path, package: Path) -> str:
    """tlkit/data/folder.py -> tlkit.data.folder"""
    return ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """tlkit.data.folder -> data"""
    return module.partition(".")[2].partition(".")[0]


def forbidden_imports(package: Path) -> list[str]:
    """Every import in any file below a package that the table does not allow."""
    found = []
    for path in sorted(package.rglob("*.py")):
        module = module_of(path, package)
        room = room_of(module)
        for name in imported_modules(ast.parse(path.read_text())):
            if name.split(".")[0] != "tlkit":
                continue
            if room not in ALLOWED:
                found.append(f"{module} is in no row of the table")
            elif room_of(name) not in ALLOWED[room] | {room, "", "__version__"}:
                found.append(f"{module} imports {name}")
            elif room == "commands" and name.startswith("tlkit.commands.") and not name.startswith(f"{module}."):
                found.append(f"{module} imports another command, {name}")
    return found


def circles(package: Path) -> list[list[str]]:
    """Groups of files that import each other, in a circle, at their top or inside functions."""
    modules = {module_of(path, package): path for path in package.rglob("*.py")}
    imports = {
        module: {longest_module(name, modules) for name in imported_modules(ast.parse(path.read_text()))} - {module, ""}
        for module, path in modules.items()
    }
    reached = {module: reachable(module, imports) for module in modules}
    groups = {tuple(sorted(n for n in reached[m] if m in reached[n])) for m in modules if m in reached[m]}
    return [list(group) for group in sorted(groups)]


def longest_module(name: str, modules: Mapping[str, Path]) -> str:
    """tlkit.data.folder.Sample -> tlkit.data.folder; "" for a name outside the package."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def reachable(start: str, imports: Mapping[str, set[str]]) -> set[str]:
    """Every module that an import leads to, directly or through others."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for name in imports[waiting.pop()] - found:
            found.add(name)
            waiting.append(name)
    return found


def test_imports_go_one_way() -> None:
    assert forbidden_imports(PACKAGE) == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles(PACKAGE) == []


def test_the_table_is_an_order_and_names_every_folder() -> None:
    for place, room in enumerate(ORDER):
        assert ALLOWED[room] <= set(ORDER[place + 1 :]), room
    rooms = {room_of(module_of(path, PACKAGE)) for path in FILES}
    assert rooms == set(ALLOWED)


def test_a_forbidden_import_is_found_in_any_file(tmp_path: Path) -> None:
    """The test of the test: whichever file gets an import against the order, the check names it and no other."""
    for path in FILES:
        module = module_of(path, PACKAGE)
        outer = {"cli": "tlkit.__main__", "__main__": "tlkit.data"}.get(room_of(module), "tlkit.cli")
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(f"{path.read_text()}\n\ndef added() -> None:\n    import {outer}\n")
        assert forbidden_imports(tmp_path / "tlkit") == [f"{module} imports {outer}"]
        copy.unlink()


def test_a_file_in_a_new_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "tlkit" / "attic" / "deep").mkdir(parents=True)
    (tmp_path / "tlkit" / "attic" / "deep" / "box.py").write_text("import tlkit.errors\n")
    assert forbidden_imports(tmp_path / "tlkit") == ["tlkit.attic.deep.box is in no row of the table"]


def test_a_command_that_imports_another_is_found(tmp_path: Path) -> None:
    (tmp_path / "tlkit" / "commands").mkdir(parents=True)
    (tmp_path / "tlkit" / "commands" / "tune.py").write_text("from tlkit.commands.finetune import finetune\n")
    expected = ["tlkit.commands.tune imports another command, tlkit.commands.finetune.finetune"]
    assert forbidden_imports(tmp_path / "tlkit") == expected


def test_a_circle_is_found(tmp_path: Path) -> None:
    (tmp_path / "tlkit").mkdir()
    for name, other in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")):
        (tmp_path / "tlkit" / f"{name}.py").write_text(f"def f() -> None:\n    from tlkit.{other} import f\n")
    assert circles(tmp_path / "tlkit") == [["tlkit.a", "tlkit.b", "tlkit.c"]]


@pytest.mark.parametrize("name", ["cli.py", "__main__.py"])
def test_the_command_line_imports_commands_only_when_they_are_called(name: str) -> None:
    for node in ast.parse((PACKAGE / name).read_text()).body:
        assert is_function(node) or not any("tlkit.commands" in module for module in imported_modules(node))


DOORS = sorted(path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)
"""The first docstring of each folder: its purpose, its files in a line each, and what it may import."""


def door_problems(door: Path, package: Path) -> list[str]:
    """What the docstring of a folder leaves out or gets wrong: its files, or the row of the table."""
    text = ast.get_docstring(ast.parse(door.read_text())) or ""
    files, _, imports = text.partition("Files:")[2].partition("May import:")
    named = {line.split()[0] for line in files.splitlines() if line.startswith("    ") and line.split()}
    there = {path.name for path in door.parent.glob("*.py")} - {"__init__.py"}
    there |= {f"{path.parent.name}/" for path in door.parent.glob("*/__init__.py")}
    found = [f"{door.parent.name}: {name} is not named" for name in sorted(there - named)]
    found += [f"{door.parent.name}: {name} does not exist" for name in sorted(named - there)]
    row = ALLOWED[room_of(module_of(door, package))]
    if set(re.findall(r"\w+", imports)) != row:
        found.append(f"{door.parent.name}: May import: {', '.join(room for room in ORDER if room in row)}.")
    return found


@pytest.mark.parametrize("door", DOORS, ids=lambda p: str(p.parent.relative_to(PACKAGE)))
def test_the_docstring_of_a_folder_names_its_files_and_imports(door: Path) -> None:
    assert door_problems(door, PACKAGE) == []


def test_a_wrong_docstring_of_a_folder_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "tlkit" / "terminal"
    folder.mkdir(parents=True)
    door = folder / "__init__.py"
    door.write_text('"""A folder.\n\nFiles:\n    gone.py  a file\n\nMay import: interruption.\n"""\n')
    (folder / "new.py").write_text("")
    assert door_problems(door, tmp_path / "tlkit") == [
        "terminal: new.py is not named",
        "terminal: gone.py does not exist",
        "terminal: May import: interruption, errors.",
    ]


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef)


def test_decoder_processes_load_hardly_anything() -> None:
    """They are started for every command, and again for every image that crashes one."""
    code = "import sys, tlkit.data.decoder_process; print([m for m in ('torch', 'numpy', 'typer') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_light_modules_load_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'torchvision', 'timm', 'ray') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_model_package_imports_torchvision_and_timm_only_inside_functions() -> None:
    code = "import sys, tlkit.runs.train; print([m for m in ('torchvision', 'timm') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_one_private_module_of_a_library_is_imported() -> None:
    """torch's TorchDispatchMode, which has no public name; tests/model/pipeline/ notice if it changes."""
    found = [
        f"{module_of(path, PACKAGE)} imports {name}"
        for path in FILES
        for name in imported_modules(ast.parse(path.read_text()))
        if any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
    ]
    assert found == ["tlkit.model.pipeline.trace imports torch.utils._python_dispatch.TorchDispatchMode"]


def test_nothing_is_unpickled_outside_the_one_gated_function() -> None:
    unsafe = (
        "weights_only=False", "pickle.load", "Unpickler", "torch.jit.load", "export.load(", "shell=True", " eval(",
        "exec(", "trust_remote_code", "allow_pickle=True", "yaml.load", "marshal", "safe_globals", "os.system", "popen",
    )  # fmt: skip
    found = [
        f"{path.name}: {line.strip()}"
        for path in FILES
        for line in path.read_text().splitlines()
        if any(word in line for word in unsafe)
    ]
    assert sorted(found) == [
        'graphs.py: return f"torch.export.load({path!r}).module()(images)  # {images}"',
        "inert.py: class InertReader(pickle.Unpickler):",  # whose find_class imports nothing
        "trusted.py: return torch.export.load(file)",
        'trusted.py: return torch.load(file, map_location="cpu", weights_only=False)',
        'weights.py: return f"torch.load({path!r}, weights_only=False)  # runs code: only for files you trust"',
    ]


def large_functions(package: Path) -> list[str]:
    """Functions of more than 50 lines, or with more than 7 parameters beside self."""
    found = []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.lineno + 1
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                parameters = sum(argument.arg not in ("self", "cls") for argument in arguments)
                if lines > LONGEST_FUNCTION or parameters > MOST_PARAMETERS:
                    found.append(f"{module_of(path, package)}.{node.name}: {lines} lines, {parameters} parameters")
    return found


def lines_of_rooms(package: Path) -> dict[str, tuple[int, int]]:
    """Folder or top-level module -> files with code, lines."""
    rooms: dict[str, tuple[int, int]] = {}
    for path in sorted(package.rglob("*.py")):
        room, lines = room_of(module_of(path, package)), len(path.read_text().splitlines())
        files, before = rooms.get(room, (0, 0))
        rooms[room] = files + (path.name != "__init__.py"), before + lines
    return rooms


def test_functions_are_short_and_take_few_parameters() -> None:
    assert large_functions(PACKAGE) == []


def test_files_do_one_job() -> None:
    for path in FILES:
        lines = path.read_text().splitlines()
        assert len(lines) <= 320, f"{path.name} has {len(lines)} lines"


def test_no_folder_is_a_catch_all() -> None:
    rooms = lines_of_rooms(PACKAGE)
    assert max(lines for _, lines in rooms.values()) <= LARGEST_SHARE * sum(lines for _, lines in rooms.values())
    assert rooms["commands"][0] <= MOST_COMMANDS and rooms["commands"][1] <= MOST_COMMAND_LINES


def test_a_large_function_is_found(tmp_path: Path) -> None:
    (tmp_path / "tlkit").mkdir()
    body = "\n".join(["    pass"] * LONGEST_FUNCTION)
    parameters = ", ".join(f"p{number}" for number in range(MOST_PARAMETERS + 1))
    (tmp_path / "tlkit" / "a.py").write_text(f"def f():\n{body}\n\nclass C:\n    def g(self, {parameters}): ...\n")
    assert large_functions(tmp_path / "tlkit") == [
        "tlkit.a.f: 51 lines, 0 parameters", "tlkit.a.g: 1 lines, 8 parameters"
    ]  # fmt: skip


MIRRORS = {"batches", "evaluation", "open", "sources", "state", "weights"}
"""Files in two folders that do the same for two things, such as opening a model and opening a predictor."""


def test_a_file_name_means_one_thing() -> None:
    """Two files share a name only if they mirror each other, or if one is the command that the other serves."""
    folders: dict[str, list[str]] = {}
    for path in FILES:
        folders.setdefault(path.stem, []).append(path.parent.name)
    shared = {stem for stem, rooms in folders.items() if len(set(rooms) - {"commands"}) > 1} - {"__init__"}
    assert shared <= MIRRORS, shared - MIRRORS
