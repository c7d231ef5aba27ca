"""The table of heads, and a head that only this file knows: trained, saved, exported and used to predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import BACKBONE, Run
from tlkit.commands.finetune import finetune
from tlkit.model.backbones import build_network, find_backbone
from tlkit.model.classifier import build_classifier, build_plain_network, own_classes
from tlkit.model.head import HEADS, Head, HeadKind, HeadShape, replace_classifier
from tlkit.options import FinetuneOptions, network

CLASSES = 3
IMAGE = (2, 3, 64, 64)


def test_the_options_name_the_heads_of_the_table() -> None:
    assert get_args(network.HeadName) == tuple(HEADS)
    assert tuple(name for name, kind in HEADS.items() if kind.default_hidden) == network.HEADS_WITH_HIDDEN
    assert tuple(name for name, kind in HEADS.items() if kind.on_class_outputs) == network.HEADS_ON_CLASS_OUTPUTS


@pytest.mark.parametrize("name", HEADS)
def test_every_head_counts_its_parameters_and_folds(name: str) -> None:
    kind = HEADS[name]
    shape = HeadShape(6, CLASSES, kind.hidden(5))
    head = Head(kind, shape)
    assert kind.parameters(shape) == sum(parameter.numel() for parameter in head.parameters())
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(50, 6, generator=generator) * 3 + 1
    for parameter in head.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    head.set_standardization(features.mean(0), features.std(0))
    assert torch.allclose(head(features), head.folded()(features), atol=1e-4)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_goes_back_into_the_plain_network(name: str) -> None:
    check_round_trip(name)


def check_round_trip(name: str) -> None:
    backbone, kind = find_backbone(BACKBONE), HEADS[name]
    plain = build_network(backbone, 7 if kind.on_class_outputs else CLASSES, 64)
    own = own_classes(backbone, plain) if kind.on_class_outputs else None
    classifier = build_classifier(backbone, plain, CLASSES, name, None, None).eval()
    images = torch.randn(*IMAGE, generator=torch.Generator().manual_seed(0))
    features = classifier.backbone(images)
    classifier.head.set_standardization(features.mean(0), features.std(0))
    whole = classifier.to_plain_network()
    assert torch.allclose(whole(images), classifier(images), atol=1e-4)
    again = build_plain_network(backbone, CLASSES, name, kind.hidden(None), 64, own)
    again.load_state_dict(whole.state_dict())
    assert torch.equal(again.eval()(images), whole(images))
    assert kind.python.format(network="net", inputs=7, classes=CLASSES)


class Cosine(nn.Module):
    """The cosine between standardized features and a vector of each class, times 10."""

    mean: Tensor
    std: Tensor

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape.classes, shape.features))
        self.register_buffer("mean", torch.zeros(shape.features))
        self.register_buffer("std", torch.ones(shape.features))

    def forward(self, features: Tensor) -> Tensor:
        rows = nn.functional.normalize((features - self.mean) / self.std, dim=-1)
        return 10 * rows @ nn.functional.normalize(self.weight, dim=1).T


def keep_standardization(layers: nn.Module, mean: Tensor, std: Tensor) -> nn.Module:
    assert isinstance(layers, Cosine)
    layers.mean.copy_(mean)
    layers.std.copy_(std)
    return layers


COSINE = HeadKind(
    Cosine,
    keep_standardization,
    replace_classifier,
    "{network} with its classifier replaced by a cosine layer",
)


@pytest.fixture
def with_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEADS, "cosine", COSINE)
    monkeypatch.setattr(network, "HeadName", Literal["linear", "mlp", "stack", "cosine"])


@pytest.mark.usefixtures("with_cosine")
def test_another_head_trains_exports_and_predicts(images: Path, tmp_path: Path, tlkit: Run) -> None:
    test_every_head_counts_its_parameters_and_folds("cosine")
    check_round_trip("cosine")
    values = {"data": str(images), "backbone": BACKBONE, "weights": "none", "head": "cosine", "epochs": 30}
    run = tmp_path / "run"
    assert finetune(FinetuneOptions.from_dict({**values, "out": str(run), "device": "cpu"})) == 0
    best = json.loads((run / "status.json").read_text())["best"]
    assert best["val_accuracy"] >= 5 / 6
    predicted = tlkit("predict", run, images / "red")
    assert (predicted.status, predicted.out.count("\tred\t") >= 8) == (0, True)
    assert tlkit("export", run, "--format", "safetensors", "-o", tmp_path / "model.safetensors").status == 0
