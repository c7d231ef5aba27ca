"""A Python process that is started imports the same modules as this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import tlkit
from tlkit.files.python_path import python_arguments


def test_a_process_in_another_folder_imports_the_same_modules(tmp_path: Path) -> None:
    (tmp_path / "tlkit.py").write_text("raise SystemExit('the wrong module')")
    program = "import tlkit; print(tlkit.__file__, *sys.argv[1:])"
    command = [sys.executable, "-I", "-S", *python_arguments(program, "a b", "c")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout == f"{tlkit.__file__} a b c\n"
