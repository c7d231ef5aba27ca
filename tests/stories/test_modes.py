"""Every file that a command writes has the mode that the umask leaves, whichever library writes it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Run, finetune_arguments
from tlkit.export.weights import EXPORTERS
from tlkit.options import EXPORT_SUFFIXES


@pytest.fixture
def umask() -> Iterator[int]:
    """One that leaves more than the usual 022 does, as in a folder that a group shares."""
    before = os.umask(0o002)
    yield 0o002
    os.umask(before)


def other_modes(root: Path, umask: int) -> dict[str, str]:
    """Files and folders below `root` whose mode is not what the umask leaves of 666 and 777."""
    found = {}
    for path in root.rglob("*"):
        mode = path.lstat().st_mode
        wanted = (0o777 if stat.S_ISDIR(mode) else 0o666) & ~umask
        if not stat.S_ISLNK(mode) and stat.S_IMODE(mode) != wanted:
            found[str(path.relative_to(root))] = stat.filemode(mode)
    return found


def test_every_file_of_every_command_honors_the_umask(
    umask: int, images: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))
    run, out = tmp_path / "run", tmp_path / "out"
    out.mkdir()
    more = ("--epochs", 2, "--log", "tensorboard", "--no-cache")
    assert tlkit(*finetune_arguments(images, run, "--epochs", 2, onnx=True)).status == 0
    assert tlkit(*finetune_arguments(images, tmp_path / "other", *more)).status == 0
    assert tlkit("resume", run, "--epochs", 3).status == 0
    assert tlkit("predict", run, images, "-o", out / "predictions.tsv").status == 0
    assert tlkit("report", run, "-o", out / "report.html").status == 0
    for name in EXPORTERS:
        assert tlkit("export", run, "--format", name, "-o", out / f"{name}{EXPORT_SUFFIXES.get(name, '')}").status == 0
    assert (run / "model.onnx").exists() and list((tmp_path / "other" / "tensorboard").iterdir())
    assert list((tmp_path / "cache").rglob("*.segment")) and list((tmp_path / "cache").rglob("graph.onnx"))
    assert len(list(out.iterdir())) == 2 + len(EXPORTERS)
    assert other_modes(tmp_path, umask) == {}
