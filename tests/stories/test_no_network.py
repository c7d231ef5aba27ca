"""Without a network everything works that needs none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OUTSIDE = ["unshare", "--net", "--"]


def can_unshare() -> bool:
    try:
        return subprocess.run([*OUTSIDE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_unshare(), reason="unshare -n is not allowed here")
def test_commands_in_a_process_without_network(artifacts: Path, images: Path, tmp_path: Path) -> None:
    weights = ["--backbone", "timm/test_byobnet", "--weights", ROOT / "sample_data" / "backbone.safetensors"]
    story: list[list[object]] = [
        ["finetune", images, *weights, "--epochs", 2, "--out", tmp_path / "run"],
        ["resume", tmp_path / "run", "--epochs", 3],
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
