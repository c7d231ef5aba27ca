"""Minimum versions of libraries that read untrusted files safely, and the check for them."""

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
"""The same versions as in pyproject.toml (a test compares); an older one may have been installed over them."""


def require_floor(*packages: str) -> None:
    """Raises UnavailableError for an installed package that is older than its floor."""
    for package in packages:
        found = version(package)  # a missing package is reported where it is used
        if found is not None and is_refused(package, found):
            problem = f"version {found} has known security holes; expected {FLOORS[package]} or newer"
            raise UnavailableError(package, problem, f"Install it: pip install '{package}>={FLOORS[package]}'")


def version(package: str) -> str | None:
    """The version of an installed package; None if it is not installed.

    Read from the names of metadata folders, because importing importlib.metadata takes too long at startup.
    """
    beginning, end = f"{package}-", ".dist-info"
    for folder in sys.path:
        with contextlib.suppress(OSError):  # an archive, or not a folder
            for name in os.listdir(folder):
                if name.endswith(end) and name[: len(beginning)].lower() == beginning:
                    return name[len(beginning) : -len(end)]
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as version_of

    try:
        return version_of(package)  # installed in another way
    except PackageNotFoundError:
        return None


def is_refused(package: str, found: str) -> bool:
    """Whether a version of a package is older than its minimum."""
    return package in FLOORS and numbers_of(found) < numbers_of(FLOORS[package])


def numbers_of(text: str) -> tuple[int, ...]:
    """2.10.0+cpu -> (2, 10, 0)"""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()
