"""Versions of libraries below which files from outside are not safe, and a refusal to go on with those."""

from __future__ import annotations

import contextlib
import os
import re
import sys

from tlkit.errors import UnavailableError

FLOORS = {
    "torch": "2.10",  # CVE-2026-24747: weights_only=True could be made to run code
    "pillow": "12.3",  # CVE-2026-25990, CVE-2026-42311 and others: images that write outside their memory
    "onnx": "1.21",  # CVE-2026-27489, CVE-2026-34446, CVE-2026-34447: models that read files outside their folder
}
"""The same stands in pyproject.toml (a test compares), but nothing keeps people from installing over it."""


def require_floor(*packages: str) -> None:
    """Raises UnavailableError for an installed package that is older than its floor."""
    for package in packages:
        found = version(package)  # who uses what is missing will say so
        if found is not None and is_refused(package, found):
            raise UnavailableError(
                package,
                f"version {found} has known holes that files can use; tlkit needs {FLOORS[package]} or newer",
                f"Get it by: pip install '{package}>={FLOORS[package]}'",
            )


def version(package: str) -> str | None:
    """The version of an installed package; None if it is not here.

    As importlib.metadata has it, whose import takes longer than all else that is looked at before a command begins.
    """
    beginning, end = f"{package}-", ".dist-info"
    for folder in sys.path:
        with contextlib.suppress(OSError):  # an archive, or nothing at all
            for name in os.listdir(folder):
                if name.endswith(end) and name[: len(beginning)].lower() == beginning:
                    return name[len(beginning) : -len(end)]
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as version_of

    try:
        return version_of(package)  # some other way of installing
    except PackageNotFoundError:
        return None


def is_refused(package: str, found: str) -> bool:
    """Whether a version of a package is older than its floor, if it has one."""
    return package in FLOORS and numbers_of(found) < numbers_of(FLOORS[package])


def numbers_of(text: str) -> tuple[int, ...]:
    """2.10.0+cpu -> (2, 10, 0)"""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()
