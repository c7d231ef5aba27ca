"""tlkit fetch packs weights for a machine without network; finetune takes the folder."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import BACKBONE, Run
from tlkit.model.backbones import build_network, find_backbone
from tlkit.model.sources import SOURCES
from tlkit.model.state_dict import weights_sha256


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The network whose weights a hub serves in place of the real ones."""
    torch.manual_seed(7)
    network = build_network(find_backbone(BACKBONE), 1000)

    def download(name: str, asking: nn.Module) -> dict[str, Tensor]:
        return dict(network.state_dict())

    monkeypatch.setattr(SOURCES["timm"], "download", download)
    return network


@pytest.fixture
def fetched(served: nn.Module, tmp_path: Path, tlkit: Run) -> Path:
    result = tlkit("fetch", BACKBONE, "-o", tmp_path / "packed")
    assert (result.status, result.out) == (0, f"{tmp_path}/packed\n")
    assert f"--backbone {BACKBONE} --weights {tmp_path}/packed" in result.err
    return tmp_path / "packed"


def test_the_folder_gives_the_weights_and_preprocessing_that_were_fetched(
    served: nn.Module, fetched: Path, images: Path, tmp_path: Path, tlkit: Run
) -> None:
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=fetched).returncode == 0
    config = json.loads((fetched / "config.json").read_text())
    config["tlkit_weights"]["preprocessing"]["mean"] = [0.25, 0.5, 0.75]  # as of another version of timm
    (fetched / "config.json").write_text(json.dumps(config))
    (fetched / "SHA256SUMS").unlink()
    run = tmp_path / "run"
    options = ["--backbone", BACKBONE, "--weights", f"{fetched}/", "--epochs", 1, "--no-onnx", "--out", run]
    assert tlkit("finetune", images, *options).status == 0
    checkpoint = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    assert checkpoint["backbone"]["sha256"] == weights_sha256(served, ("fc",))
    assert checkpoint["backbone"]["weights"] == "packed"
    assert checkpoint["preprocessing"]["mean"] == [0.25, 0.5, 0.75]
    assert tlkit("predict", run / "checkpoints" / "last.pt", images).status == 0


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_folder_is_refused(name: str, fetched: Path, images: Path, tmp_path: Path, tlkit: Run) -> None:
    content = bytearray((fetched / name).read_bytes())
    content[-1] ^= 1
    (fetched / name).write_bytes(content)
    result = tlkit("finetune", images, "--backbone", BACKBONE, "--weights", fetched, "--out", tmp_path / "run")
    assert result.status == 65
    assert name in result.err.splitlines()[-2] and "SHA256SUMS" in result.err


@pytest.mark.parametrize("line", ["0" * 64 + "  ../model.safetensors", "0" * 64 + "  /etc/passwd", "words"])
def test_digests_name_only_files_of_the_folder(
    line: str, fetched: Path, tmp_path: Path, images: Path, tlkit: Run
) -> None:
    (fetched / "SHA256SUMS").write_text(f"{line}\n")
    result = tlkit("finetune", images, "--backbone", BACKBONE, "--weights", fetched, "--out", tmp_path / "run")
    assert result.status == 65 and "invalid line" in result.err


def test_an_existing_folder_is_not_replaced(fetched: Path, tlkit: Run) -> None:
    before = {path.name: path.read_bytes() for path in fetched.iterdir()}
    assert tlkit("fetch", BACKBONE, "-o", fetched).status == 73
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == before
    assert tlkit("fetch", BACKBONE, "-o", fetched / "missing" / "below").status == 73


def test_a_folder_without_weights_is_refused(fetched: Path, images: Path, tmp_path: Path, tlkit: Run) -> None:
    (fetched / "model.safetensors").unlink()
    arguments = ["finetune", images, "--backbone", BACKBONE, "--weights", fetched, "--out", tmp_path / "run"]
    incomplete = tlkit(*arguments)
    assert incomplete.status == 66 and "model.safetensors: no such file" in incomplete.err
    (fetched / "SHA256SUMS").unlink()
    empty = tlkit(*arguments)
    assert empty.status == 65 and "expected model.safetensors" in empty.err
