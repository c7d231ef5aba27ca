"""Without a network everything works that needs none, on a real ImageNet backbone and real photographs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LITE0, Run, needs_lite0

ROOT = Path(__file__).parents[2]
OUTSIDE = ["unshare", "--net", "--"]


def can_unshare() -> bool:
    try:
        return subprocess.run([*OUTSIDE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


UNLABELLED = ["grass", "gravel", "brick", "galaxies", "retina"]
"""The classes of sample_data/unlabelled, in order of file names."""


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Eight training and four validation photographs of each class of the sample data."""
    for part, count in (("train", 8), ("val", 4)):
        for folder in (ROOT / "sample_data" / "textures" / part).iterdir():
            target = tmp_path / "photographs" / part / folder.name
            target.mkdir(parents=True)
            for path in sorted(folder.iterdir())[:count]:
                shutil.copy(path, target)
    return tmp_path / "photographs"


@needs_lite0
@pytest.mark.skipif(not can_unshare(), reason="unshare -n is not allowed here")
def test_commands_in_a_process_without_network(artifacts: Path, photographs: Path, tmp_path: Path, tlkit: Run) -> None:
    images = photographs
    story: list[list[object]] = [
        ["finetune", images, "--backbone", LITE0, "--epochs", 20, "--out", tmp_path / "run"],
        ["resume", tmp_path / "run", "--epochs", 21],
        ["predict", tmp_path / "run", images],
        ["predict", tmp_path / "run" / "checkpoints" / "best.pt", images],
        ["predict", artifacts / "model.onnx", images],
        ["predict", artifacts / "model.pt2", images],
        ["evaluate", tmp_path / "run", images],
        ["summary", tmp_path / "run"],
        *(
            ["export", tmp_path / "run", "--format", form, "-o", tmp_path / name]
            for form, name in {
                "state_dict": "a.pt",
                "safetensors": "a.safetensors",
                "timm": "timm",
                "onnx": "a.onnx",
            }.items()
        ),
    ]
    # One process for all of it: importing torch takes longest.
    program = f"""
import sys
from tlkit.cli import run
for words in {[[str(word) for word in words] for words in story]!r}:
    status = run(words)
    assert status == 0, (status, words)
import socket
try:
    socket.create_connection(("192.0.2.1", 80), 1)
except OSError as error:
    sys.exit(0 if error.errno == 101 else 9)
"""
    result = subprocess.run(
        [*OUTSIDE, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert max(row["val_accuracy"] for row in history) >= 0.95
    predicted = tlkit("predict", tmp_path / "run", ROOT / "sample_data" / "unlabelled")
    assert [line.split("\t")[1] for line in predicted.out.splitlines()] == UNLABELLED
