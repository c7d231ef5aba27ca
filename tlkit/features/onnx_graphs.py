"""ONNX graphs of backbones, kept in the feature cache: exporting one takes seconds.

A graph lies in the folder of the features that it computes. Loads no torch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from tlkit.errors import TlkitError
from tlkit.features.cache import cache_root, graph_file, make_namespace, make_room, namespace_folder
from tlkit.files.atomic import write_atomically
from tlkit.files.onnx_file import OnnxFile, checksum_of, read_onnx

SHARE = 0.1
"""Largest part of the cache limit that one graph may take: features are worth more."""


def find_graph(namespace: Mapping[str, Any]) -> OnnxFile | None:
    """The kept graph of a feature set. A damaged one is removed."""
    path = graph_file(namespace_folder(cache_root(), namespace))
    try:
        file = read_onnx(path)
    except TlkitError:
        with contextlib.suppress(OSError):
            os.unlink(path)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the least recently used file is removed first
    return file


def keep_graph(namespace: Mapping[str, Any], content: bytes, limit: int) -> None:
    """Keep a graph, given without its checksum. limit: bytes of the whole cache; least recently used files make room.

    A graph that cannot be kept costs the next run some seconds and is no error.
    """
    root, checked = cache_root(), content + checksum_of(content)
    with contextlib.suppress(OSError, TlkitError):
        path = graph_file(make_namespace(root, namespace))
        if len(checked) <= SHARE * limit and make_room(root, limit - len(checked), keep=()):
            write_atomically(path, lambda file: file.write(checked))
