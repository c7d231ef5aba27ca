"""Imports go one way only, heavy libraries stay out of light modules, and unsafe calls out of everything."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tlkit"
FILES = sorted(PACKAGE.rglob("*.py"))

# What each part of the package may import from it, beside itself.
ALLOWED = {
    "__init__": set(),
    "__main__": {"cli"},
    "options": {"declarations", "errors", "ranks"},
    "cli": {"declarations", "options", "errors", "interruption", "terminal", "versions", "commands", "ranks"},
    "declarations": {"errors"},
    "distributed": {"ranks"},
    "ranks": {"errors", "terminal", "process_group"},
    "process_group": {"distributed", "errors", "ranks"},
    "errors": set(),
    "gpus": {"terminal"},
    "interruption": set(),
    "terminal": {"errors", "interruption"},
    "storage": {"errors"},
    "run_folder": {"errors", "storage", "files"},
    "run_claim": {"errors", "run_folder", "storage"},
    "versions": {"errors"},
    "files": {"errors", "storage"},
    "data": {"distributed", "errors"},
    "memory": {"errors"},
    "model": {"data", "distributed", "memory", "errors", "storage", "files"},
    "training": {"distributed", "errors", "memory"},
    "output": {"errors", "versions", "files"},
    "commands": {
        "data", "model", "training", "output",
        "options", "declarations", "errors", "run_folder", "run_claim", "storage", "terminal",
        "interruption", "files", "versions", "distributed", "gpus", "memory", "process_group", "ranks",
    },
}  # fmt: skip

COMMANDS_USED_BY_COMMANDS = {
    "finetune": {
        "agreement", "devices", "following", "image_check", "joining", "launch", "resume", "survey", "training_run",
    },
    "resume": {"agreement", "continuation", "following", "joining", "launch", "tune", "tuning"},
    "tune": {"finetune", "image_check", "survey", "tuning"},
    "conduct": {"vector_memory"},
    "watched_training": {"answering", "checkpoints", "conduct", "devices", "images", "peak_memory"},
    "continuation": {
        "agreement", "checkpoints", "conduct", "finetune", "image_check", "joining", "stored_options", "survey",
        "training_run", "watching",
    },
    "following": {"agreement", "building", "images", "joining", "watched_training"},
    "building": {"agreement", "assembly", "devices", "environment", "placement"},
    "run_record": {"engines", "image_check", "survey"},
    "training_run": {
        "agreement", "answering", "building", "checkpoints", "conduct", "environment", "images", "run_record",
        "watched_training", "watching",
    },
}  # fmt: skip
SHARED_BY_COMMANDS = {
    "agreement", "answering", "assembly", "batch_size", "check_report", "checkpoints", "devices", "engines",
    "environment", "exporting",
    "extraction", "image_check", "images", "inputs", "joining", "labellers", "launch", "model_graphs", "models",
    "outcomes", "placement", "reporting", "sharing", "stored_options", "streaming", "survey", "thumbnails",
    "validation", "variables", "vector_memory",
}  # fmt: skip

WITHOUT_TORCH = [
    "tlkit.cli", "tlkit.options", "tlkit.declarations", "tlkit.errors", "tlkit.run_folder", "tlkit.storage",
    "tlkit.interruption", "tlkit.terminal", "tlkit.data.folder", "tlkit.data.listing",
    "tlkit.data.decoders", "tlkit.data.same_content", "tlkit.commands.image_check", "tlkit.commands.check",
    "tlkit.output.predictions", "tlkit.versions", "tlkit.files.inputs", "tlkit.files.json_file",
    "tlkit.files.seal", "tlkit.files.archive",
    "tlkit.files.pickles", "tlkit.files.description", "tlkit.files.onnx_file", "tlkit.model.feature_store",
    "tlkit.model.labeller",
    "tlkit.model.onnx_model", "tlkit.model.graphs", "tlkit.commands.model_graphs", "tlkit.commands.graph_process",
    "tlkit.commands.labellers", "tlkit.commands.predict",
    "tlkit.commands.inputs", "tlkit.commands.outcomes", "tlkit.commands.streaming",
    "tlkit.gpus", "tlkit.run_claim", "tlkit.commands.finetune", "tlkit.commands.resume", "tlkit.commands.report",
    "tlkit.commands.watching", "tlkit.training.evaluation", "tlkit.commands.launch", "tlkit.distributed",
    "tlkit.ranks", "tlkit.commands.joining", "tlkit.commands.agreement",
    "tlkit.options.space", "tlkit.options.tune", "tlkit.commands.tune", "tlkit.commands.tuning.table",
    "tlkit.commands.tuning.points", "tlkit.commands.tuning.cluster", "tlkit.commands.tuning.leaderboard",
]  # fmt: skip


def imported_modules(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    part = part_of(path)
    for module in imported_modules(ast.parse(path.read_text())):
        names = module.split(".")
        if names[0] == "tlkit" and len(names) > 1:
            assert names[1] in ALLOWED[part] | {part}, f"{path.name} imports {module}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "commands").glob("*.py")), ids=lambda p: p.stem)
def test_commands_use_no_other_commands(path: Path) -> None:
    allowed = COMMANDS_USED_BY_COMMANDS.get(path.stem, SHARED_BY_COMMANDS)
    for module in imported_modules(ast.parse(path.read_text())):
        names = module.split(".")
        if names[:2] == ["tlkit", "commands"]:
            assert names[2] in allowed, f"{path.name} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_command_line_imports_commands_only_when_they_are_called(path: Path) -> None:
    if part_of(path) in ("cli", "__main__"):
        for node in ast.parse(path.read_text()).body:
            assert not any("tlkit.commands" in module for module in imported_modules(node) if not is_function(node))


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
    code = "import sys, tlkit.commands.training_run; print([m for m in ('torchvision', 'timm') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


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
    assert found == [
        'trusted.py: return torch.load(file, map_location="cpu", weights_only=False)',
        "trusted.py: return torch.export.load(file)",
        'exporters.py: return f"torch.load({path!r}, weights_only=False)  # runs code: only for files you trust"',
        'graph_exporters.py: return f"torch.export.load({path!r}).module()(images)  # {images}"',
    ]


def test_files_do_one_job() -> None:
    for path in FILES:
        lines = path.read_text().splitlines()
        assert len(lines) <= 320, f"{path.name} has {len(lines)} lines"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path.name}: {node.name} is long"
