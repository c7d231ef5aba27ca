"""Environment variables for a while, for processes that are started meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def environment(values: Mapping[str, str], without: tuple[str, ...] = ()) -> Iterator[None]:
    """Inside, these variables are set, and those of `without` are not."""
    before = {name: os.environ.pop(name, None) for name in (*values, *without)}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
