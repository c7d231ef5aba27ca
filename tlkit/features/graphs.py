"""Graphs for onnxruntime, kept in the feature store beside what they compute: to export one takes seconds.

A graph lies in the space of the vectors that it gives, or, if it gives labels, in one of its own. Loads no torch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from tlkit.errors import TlkitError
from tlkit.features.cache import graph_file, has_room, make_room, make_space, space_folder, store_root
from tlkit.files.atomic import write_atomically
from tlkit.files.onnx_file import OnnxFile, checksum_of, read_onnx

SHARE = 0.1
"""Of all that may be kept, what one graph may take: vectors are worth more."""


def has_graph(space: Mapping[str, Any]) -> bool:
    """Whether a space has a graph, which may be damaged."""
    return os.path.exists(graph_file(space_folder(store_root(), space)))


def find_graph(space: Mapping[str, Any]) -> OnnxFile | None:
    """The graph of a space, if it is there and whole."""
    path = graph_file(space_folder(store_root(), space))
    try:
        file = read_onnx(path)
    except TlkitError:
        with contextlib.suppress(OSError):
            os.unlink(path)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # what was used least recently goes first
    return file


def keep_graph(space: Mapping[str, Any], content: bytes, limit: int, displacing: bool = True) -> None:
    """Keep a graph, without its seal, if there is room for it. limit: bytes of all that is kept. displacing: whether
    what was used least recently may go to make room.

    That it cannot be kept costs the next run some seconds, and is no trouble of this one's.
    """
    root, sealed = store_root(), content + checksum_of(content)
    with contextlib.suppress(OSError, TlkitError):
        path, find_room = graph_file(make_space(root, space)), partial(make_room, keep=()) if displacing else has_room
        if len(sealed) <= SHARE * limit and find_room(root, limit - len(sealed)):
            write_atomically(path, lambda file: file.write(sealed))
