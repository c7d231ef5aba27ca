"""Start a Python process that imports its modules from the same files as this process."""

from __future__ import annotations

import json
import os
import sys

import tlkit


def python_arguments(program: str, *arguments: str) -> list[str]:
    """The arguments after `python` that run a program with this process's `sys.path`.

    Paths are absolute, so they hold in any working directory. The program finds `arguments` in `sys.argv[1:]`.
    """
    paths = [*map(os.path.abspath, sys.path), os.path.dirname(*tlkit.__path__)]
    set_paths = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1))"
    return ["-c", f"{set_paths}; {program}", json.dumps(paths), *arguments]
