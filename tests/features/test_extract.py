"""Room for vectors: taken before it is needed, so that a full disk is an error and no signal."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import numpy as np
import pytest

from tlkit.errors import StorageError
from tlkit.features import extract


@pytest.mark.parametrize("most", [0, 1 << 20], ids=["on disk", "in memory"])
def test_vectors_are_kept(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "IN_MEMORY_BYTES", most)
    rows = extract.FeatureBuffer(3)
    rows.put([1, 0], np.array([[1, 2], [3, 4]], np.float32))
    assert [rows.next_place(5, b"key"), rows.next_place(7, b"other")] == [0, 1]
    assert (rows.numbers, rows.keys) == ([5, 7], [b"key", b"other"])
    assert rows.filled().tolist() == [[3, 4], [1, 2]]


def test_the_disk_has_the_room_before_anything_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    reserve: Callable[[int, int, int], None] = os.posix_fallocate

    def note(descriptor: int, start: int, size: int) -> None:
        asked.append((start, size))
        reserve(descriptor, start, size)

    monkeypatch.setattr(extract, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(os, "posix_fallocate", note)
    assert extract.allocate((100, 50)).shape == (100, 50)
    assert asked == [(0, 4 * 100 * 50)]


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(extract, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"No space left on device \(20,000 bytes needed, "):
        extract.allocate((100, 50))
