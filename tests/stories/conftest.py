"""A model that starts at once, and pictures under odd names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.stories.predicting import ODD_NAMES
from tlkit.cli import run


@pytest.fixture(scope="session")
def model(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .onnx export of the finished run, with which a process starts without torch."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    assert run(["export", str(finished_run), "--format", "onnx", "-o", str(path)]) == 0
    return path


@pytest.fixture(scope="session")
def picture(images: Path) -> Path:
    return images / "red" / "00.png"


@pytest.fixture
def odd_folder(tmp_path: Path, images: Path) -> Path:
    """Pictures of all classes under names of every kind."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for number, name in enumerate(ODD_NAMES):
        source = images / ("red", "green", "blue")[number % 3] / f"{number % 10:02d}.png"
        os.symlink(os.fsencode(source), os.path.join(os.fsencode(folder), name))
    return folder


@pytest.fixture
def ten_inputs(images: Path, tmp_path: Path) -> list[Path]:
    """Seven pictures, and three files that are none."""
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    bad = [tmp_path / "empty.jpg", tmp_path / "text.jpg", tmp_path / "missing.jpg"]
    good = sorted(images.rglob("*.png"))[:7]
    return [good[0], bad[0], *good[1:4], bad[1], bad[2], *good[4:]]
