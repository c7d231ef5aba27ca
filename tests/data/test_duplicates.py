"""Files of the same bytes are found, and hardly any other file is read for it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.conftest import Run
from tlkit.data import duplicates
from tlkit.data.duplicates import DuplicateFinder, quick_hash
from tlkit.data.folder import Sample
from tlkit.data.image_file import open_regular


def collect(root: Path, files: dict[str, bytes]) -> DuplicateFinder:
    same = DuplicateFinder()
    for name, content in files.items():
        (root / name).write_bytes(content)
        with open_regular(str(root / name)) as file:
            same.add(Sample(str(root / name), 0), quick_hash(file))
    return same


def groups(same: DuplicateFinder, workers: int = 2) -> list[list[str]]:
    return [[os.path.basename(path) for path, _ in group] for group in same.groups(workers)]


@pytest.mark.parametrize("workers", [0, 3])
def test_equal_files_are_found(workers: int, tmp_path: Path) -> None:
    one, other = b"1" * 10_000, b"2" * 10_000
    files = {"a": one, "b": other, "c": one, "d": b"short", "e": one, "f": other}
    assert groups(collect(tmp_path, files), workers) == [["a", "c", "e"], ["b", "f"]]


def test_files_that_are_only_alike_are_not_the_same(tmp_path: Path) -> None:
    files = {"a": b"1" + b"0" * 9999, "b": b"2" + b"0" * 9999}
    same = collect(tmp_path, files)
    assert len(same._alike) == 1
    assert groups(same) == []


def test_only_what_is_alike_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    digest_of = duplicates.digest_of

    def noted(sample: Sample) -> bytes | None:
        read.append(os.path.basename(sample.path))
        return digest_of(sample)

    monkeypatch.setattr(duplicates, "digest_of", noted)
    files = {str(number): bytes([number]) * 5000 for number in range(50)} | {"again": bytes([7]) * 5000}
    assert groups(collect(tmp_path, files), 0) == [["7", "again"]]
    assert read == ["7", "again"]


def test_a_file_that_has_gone_meanwhile_is_nobodys_copy(tmp_path: Path) -> None:
    same = collect(tmp_path, {"a": b"x" * 10, "b": b"x" * 10})
    (tmp_path / "a").unlink()
    assert groups(same) == []


def test_a_file_that_the_system_cannot_read_is_a_bad_image(
    images: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(*arguments: object) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(os, "pread", stale)
    result = tlkit("check", images, "--format", "json")
    assert result.status == 65, result.err
    assert result.out.count('"message": "cannot be read (Stale file handle)"') == 30
