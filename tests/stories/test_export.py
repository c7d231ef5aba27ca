"""Exports open in other tools with the same logits; backbones and summary tell what is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from tests.conftest import Run, finetune_arguments
from tlkit.export.weights import EXPORTERS, Safetensors
from tlkit.model.files import LoadedModel
from tlkit.model.open import open_model
from tlkit.options import EXPORT_SUFFIXES, ExportOptions


def logits_of(network: nn.Module) -> torch.Tensor:
    """On seven random images."""
    images = torch.randn(7, 3, 160, 160, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        logits = network.eval()(images)
    assert isinstance(logits, torch.Tensor)
    return logits


def test_every_exporter_can_be_chosen_and_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    for name in EXPORTERS:
        output = f"out{EXPORT_SUFFIXES.get(name, '')}"
        assert ExportOptions(model="m", format=name, output=output).format == name  # type: ignore[arg-type]
        assert f"`{name}`" in page


def test_exports_open_elsewhere_with_the_same_logits(finished_run: Path, tmp_path: Path, tlkit: Run) -> None:
    expected = logits_of(open_model(str(finished_run)).network)
    paths = {"state_dict": "a.pt", "full": "b.pt", "safetensors": "c.safetensors", "timm": "folder"}
    assert {*paths, "onnx", "torch_export"} == EXPORTERS.keys()  # these two in test_graph_exports.py
    for name, file in paths.items():
        result = tlkit("export", finished_run, "--format", name, "--output", tmp_path / file)
        assert result.status == 0, result.err
        assert result.out == f"{tmp_path / file}\n"
    assert "runs code" in tlkit("export", finished_run, "--format", "full", "-o", tmp_path / "again.pt").err
    plain = timm.create_model("test_resnet", num_classes=3)
    plain.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
    assert torch.equal(logits_of(plain), expected)
    plain = timm.create_model("test_resnet", num_classes=3)
    plain.load_state_dict(load_file(tmp_path / "c.safetensors"))
    assert torch.equal(logits_of(plain), expected)
    assert torch.equal(logits_of(torch.load(tmp_path / "b.pt", weights_only=False)), expected)
    hub = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True)
    assert torch.equal(logits_of(hub), expected)
    assert hub.pretrained_cfg["label_names"] == ["blue", "green", "red"]


@pytest.mark.parametrize("name", ["safetensors", "timm"])
def test_self_describing_exports_predict(
    name: str, finished_run: Path, images: Path, tmp_path: Path, tlkit: Run
) -> None:
    out = tmp_path / f"exported.{name}"
    assert tlkit("export", finished_run, "--format", name, "--output", out).status == 0
    assert tlkit("predict", out, images).out == tlkit("predict", finished_run, images).out


def test_nothing_but_an_earlier_export_is_overwritten(finished_run: Path, tmp_path: Path, tlkit: Run) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").write_bytes(b"dear")
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    for model, format, output in (
        (run, "timm", photos),
        (run, "timm", run),
        (run, "timm", tmp_path),
        (run, "state_dict", run / "model.pt"),
        (run / "model.pt", "state_dict", run / "model.pt"),
        (run, "safetensors", run / "checkpoints" / "best.pt"),
    ):
        result = tlkit("export", model, "--format", format, "--output", output, "--overwrite")
        assert (result.status, result.out) == (73, ""), result.err
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    for _ in range(2):
        assert tlkit("export", run, "--format", "timm", "-o", tmp_path / "hub", "--overwrite").status == 0
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == ["config.json", "model.safetensors"]
    assert tlkit("export", run, "--format", "timm", "-o", tmp_path / "hub").status == 73


def test_an_export_that_reads_back_wrong_replaces_nothing(
    finished_run: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model.safetensors"
    assert tlkit("export", finished_run, "--format", "safetensors", "-o", out).status == 0
    good = out.read_bytes()

    def read_wrong(self: object, model: LoadedModel, path: str) -> nn.Module:
        return model.from_pixels(model.description.build())

    monkeypatch.setattr(Safetensors, "read", read_wrong)
    result = tlkit("export", finished_run, "--format", "safetensors", "-o", out, "--overwrite")
    assert result.status == 65 and "differ" in result.err
    assert out.read_bytes() == good
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_other_heads_export_what_they_can(images: Path, tmp_path: Path, tlkit: Run) -> None:
    assert tlkit(*finetune_arguments(images, tmp_path / "run", "--head", "mlp", "--hidden", 8)).status == 0
    expected = logits_of(open_model(str(tmp_path / "run")).network)
    assert tlkit("export", tmp_path / "run", "--output", tmp_path / "mlp.pt").status == 0
    plain = timm.create_model("test_resnet", num_classes=3)
    plain.fc = nn.Sequential(nn.Linear(plain.fc.in_features, 8), nn.GELU(), nn.Linear(8, 3))
    plain.load_state_dict(torch.load(tmp_path / "mlp.pt", weights_only=True))
    assert torch.equal(logits_of(plain), expected)
    refused = tlkit("export", tmp_path / "run", "--format", "timm", "--output", tmp_path / "folder")
    assert refused.status == 2 and "linear head" in refused.err
    assert not (tmp_path / "folder").exists()


def test_a_network_that_asks_for_the_version_of_its_state_dict(images: Path, tmp_path: Path, tlkit: Run) -> None:
    arguments = ["--backbone", "torchvision/mnasnet0_5", "--weights", "none", "--epochs", 1, "--out", tmp_path / "run"]
    assert tlkit("finetune", images, "--image-size", 64, *arguments).status == 0
    assert tlkit("export", tmp_path / "run", "--output", tmp_path / "a.pt").status == 0
    plain = torchvision.models.get_model("mnasnet0_5", num_classes=3)
    plain.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
    assert torch.equal(logits_of(plain), logits_of(open_model(str(tmp_path / "run")).network))
    refused = tlkit("export", tmp_path / "run", "--format", "safetensors", "--output", tmp_path / "a.safetensors")
    assert (refused.status, refused.out) == (2, "")
    assert "--format safetensors: cannot hold the state dict version" in refused.err
    assert not (tmp_path / "a.safetensors").exists()


def test_a_stacked_head_on_weights_published_under_other_names(images: Path, tmp_path: Path, tlkit: Run) -> None:
    """ConvNeXt's authors call the classifier `head`, timm `head.fc`."""
    name = "test_convnext"
    state = timm.create_model(name, num_classes=11).state_dict()
    published = {
        key.replace("stem.0", "downsample_layers.0.0")
        .replace("stem.1", "downsample_layers.0.1")
        .replace("head.fc", "head")
        .replace("head.norm", "norm"): tensor
        for key, tensor in state.items()
    }
    for stage in range(4):
        published = {
            re.sub(rf"stages\.{stage}\.blocks\.(\d+)\.", rf"stages.{stage}.\1.", key)
            .replace(f"stages.{stage}.downsample", f"downsample_layers.{stage}")
            .replace("conv_dw", "dwconv")
            .replace("mlp.fc1", "pwconv1")
            .replace("mlp.fc2", "pwconv2"): tensor
            for key, tensor in published.items()
        }
    torch.save(published, tmp_path / "published.pth")
    torch.save(state, tmp_path / "plain.pth")
    logits = []
    for weights in ("published", "plain"):
        arguments = ["--backbone", f"timm/{name}", "--weights", tmp_path / f"{weights}.pth", "--head", "stack"]
        result = tlkit("finetune", images, *arguments, "--epochs", 1, "--out", tmp_path / weights)
        assert result.status == 0, result.err
        logits.append(logits_of(open_model(str(tmp_path / weights)).network))
    assert torch.equal(*logits)


def test_a_stacked_head_on_a_weights_file(images: Path, tmp_path: Path, tlkit: Run) -> None:
    torch.manual_seed(1)
    torch.save({"state_dict": timm.create_model("test_resnet", num_classes=11).state_dict()}, tmp_path / "own.pth")
    arguments = [
        *finetune_arguments(images, tmp_path / "run", "--head", "stack"),
        "--weights",
        str(tmp_path / "own.pth"),
    ]
    result = tlkit(*arguments)
    assert result.status == 0, result.err
    network = open_model(str(tmp_path / "run")).network
    assert isinstance(network, nn.Sequential)
    assert network[-1].weight.shape == (3, 11)
    assert tlkit("predict", tmp_path / "run", images).out.count("\n") == 30


def test_a_folder_for_timm_takes_the_place_of_no_file(tmp_path: Path, tlkit: Run) -> None:
    """Which is said before any work: there is no model here."""
    (tmp_path / "notes").write_text("mine")
    result = tlkit("export", tmp_path / "missing", "--format", "timm", "-o", tmp_path / "notes", "--overwrite")
    assert result.status == 73 and "is a file" in result.err
    assert (tmp_path / "notes").read_text() == "mine"


def test_nothing_is_overwritten_unasked(finished_run: Path, tmp_path: Path, tlkit: Run) -> None:
    (tmp_path / "mine.pt").write_text("mine")
    refused = tlkit("export", finished_run, "--output", tmp_path / "mine.pt")
    assert refused.status == 73 and (tmp_path / "mine.pt").read_text() == "mine"
    assert tlkit("export", finished_run, "--output", tmp_path / "no" / "where.pt").status == 73
    assert tlkit("export", finished_run, "--output", tmp_path / "mine.pt", "--overwrite").status == 0
    assert torch.load(tmp_path / "mine.pt", weights_only=True)["fc.weight"].shape[0] == 3


def test_a_pickled_model_is_refused(finished_run: Path, images: Path, tmp_path: Path, tlkit: Run) -> None:
    assert tlkit("export", finished_run, "--format", "full", "--output", tmp_path / "full.pt").status == 0
    for words in (
        ["predict", tmp_path / "full.pt", images],
        ["resume", tmp_path / "full.pt"],
        ["evaluate", tmp_path / "full.pt", images],
    ):
        result = tlkit(*words)
        assert result.status == 77, result.err


def test_backbones_and_summary(finished_run: Path, tlkit: Run) -> None:
    listed = tlkit("backbones", "resnet18")
    assert "timm/resnet18" in listed.out.splitlines() and "torchvision/resnet18" in listed.out.splitlines()
    assert tlkit("backbones", "no-such-*").status == 66
    sized = tlkit("backbones", "test_resnet", "--sizes")
    assert sized.out.split("\t")[2] == "160x160\n"
    text = tlkit("summary", "torchvision/resnet18").out
    assert "11,689,512" in text and "513,000" in text and "1.8 G" in text
    own = tlkit("summary", finished_run).out
    assert f"trainable    {96 * 3 + 3}\n" in own


def test_help_is_there_without_torch() -> None:
    result = subprocess.run([sys.executable, "-m", "tlkit", "--version"], capture_output=True, text=True)
    assert result.stdout.startswith("tlkit ")
    assert json.dumps(result.stderr) == '""'


def test_summary_counts_what_trained(images: Path, tmp_path: Path, tlkit: Run) -> None:
    result = tlkit(*finetune_arguments(images, tmp_path / "run", "--unfreeze", "all", "--epochs", 1))
    assert result.status == 0 and "291 parameters to train, and 372.7 K of the backbone" in result.err
    assert "trainable    372,979\n" in tlkit("summary", tmp_path / "run").out
