"""ONNX graphs of backbones, kept in the feature cache: exporting one takes seconds.

A graph lies in the folder of the features that it computes. Loads no torch.
"""

from __future__ import annotations

import contextlib
import os

from tlkit.errors import DataError, TlkitError
from tlkit.features.cache import Namespace, cache_root, make_namespace, make_room, namespace_folder, namespace_text
from tlkit.features.cache_files import GRAPH_FILE, LARGEST_GRAPH, cache_above, opened, remove_own
from tlkit.files.atomic import write_atomically
from tlkit.files.onnx_file import OnnxFile, checksum_of, parse_onnx

SHARE = 0.1
"""Largest part of the cache limit that one graph may take: features are worth more."""


def find_graph(namespace: Namespace) -> OnnxFile | None:
    """The kept graph of a feature set. A damaged one, or one of something else, is removed."""
    path = os.path.join(namespace_folder(cache_root(), namespace), GRAPH_FILE)
    try:
        with opened(path) as stream:
            if os.fstat(stream.fileno()).st_size > LARGEST_GRAPH:
                raise DataError(path, "is too large")
            file = parse_onnx(path, stream.read())
        if namespace_text(file.description) != namespace_text(namespace):
            raise DataError(path, "is the graph of another backbone")
    except (OSError, TlkitError):
        remove_own(path)
        return None
    with contextlib.suppress(OSError):
        os.utime(path, follow_symlinks=False)  # the least recently used file is removed first
    return file


def keep_graph(namespace: Namespace, content: bytes, limit: int) -> None:
    """Keep a graph, given without its checksum. limit: bytes of the whole cache; least recently used files make room.

    A graph that cannot be kept costs the next run some seconds and is no error. A file of another user is kept.
    """
    root, checked = cache_root(), content + checksum_of(content)
    with contextlib.suppress(OSError, TlkitError):
        path = os.path.join(make_namespace(root, namespace), GRAPH_FILE)
        fits = len(checked) <= SHARE * limit and make_room(root, limit - len(checked), keep=())
        if fits and not os.path.lexists(path):
            write_atomically(path, lambda file: file.write(checked), cache_above(os.path.dirname(path)))
