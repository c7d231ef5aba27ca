"""An optimized network gives the same outputs and does not change the original."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tlkit.devices.select import choose_precision
from tlkit.inference.torch_predictor import QUICKEN_AFTER, TorchPredictor
from tlkit.model.backbones import build_network, find_backbone, preprocessing_of
from tlkit.model.open import open_model
from tlkit.model.optimize import can_be_one, optimized_for_inference, shared_copy


def settled(network: nn.Module) -> nn.Module:
    """Statistics as after training: a fold of fresh ones would go unnoticed."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator))
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return network.eval()


def count(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in network.modules())


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("timm/test_resnet", 0),
        ("timm/test_byobnet", 0),
        ("timm/test_efficientnet", 0),
        ("timm/test_vit", 0),
        ("timm/test_nfnet", 0),
        ("timm/mobilenetv3_small_050", 0),
        ("torchvision/resnet18", 0),
        ("torchvision/mobilenet_v2", 0),
        ("torchvision/googlenet", 0),
        ("torchvision/squeezenet1_1", 0),
        # Its BatchNorms come before the convolutions; only those within a dense layer follow one.
        ("torchvision/densenet121", 62),
    ],
)
@torch.no_grad()
def test_outputs_stay_and_batch_norms_go(name: str, left: int) -> None:
    backbone = find_backbone(name)
    torch.manual_seed(0)
    network = settled(build_network(backbone, 5))
    before = copy.deepcopy(network.state_dict())
    size = preprocessing_of(backbone, network, None).image_size
    images = torch.randn(2, 3, *size)
    expected = network(images)
    quick = optimized_for_inference(network, size)
    assert_close(quick(images), expected)
    assert_close(quick(images.contiguous(memory_format=torch.channels_last)), expected)
    assert count(quick, nn.BatchNorm2d) == left
    assert torch.equal(network(images), expected)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


class TakesConvolutionTwice(nn.Module):
    """A convolution whose output is used beside its BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        output: Tensor = self.norm(maps) + maps
        return output


class CallsConvolutionTwice(TakesConvolutionTwice):
    """A convolution that is called once with its BatchNorm and once without."""

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.norm(self.conv(images)) + self.conv(-images)
        return output


@pytest.mark.parametrize("kind", [TakesConvolutionTwice, CallsConvolutionTwice])
@torch.no_grad()
def test_what_cannot_be_folded_is_not(kind: type[nn.Module]) -> None:
    network = settled(kind())
    images = torch.randn(2, 3, 8, 8)
    quick = optimized_for_inference(network, (8, 8))
    assert_close(quick(images), network(images))
    assert count(quick, nn.BatchNorm2d) == 1


def test_a_batch_norm_on_another_device_is_not_folded() -> None:
    conv, norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
    assert can_be_one(conv, norm)
    assert not can_be_one(conv, norm.to("meta"))
    assert not can_be_one(conv, nn.BatchNorm2d(4, track_running_stats=False))


def test_a_shared_copy_is_frozen_and_takes_no_memory() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    shared = shared_copy(network)
    assert shared[0].weight.data_ptr() == network[0].weight.data_ptr()
    assert shared[1].running_mean is network[1].running_mean
    assert not shared.training and network.training
    assert not shared[0].weight.requires_grad and network[0].weight.requires_grad


def test_a_model_is_quickened_when_it_has_seen_a_batch(finished_run: Path) -> None:
    model = open_model(str(finished_run))
    predictor = TorchPredictor(model, torch.device("cpu"), "fp32")
    height, width = model.preprocessing.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (QUICKEN_AFTER, height, width, 3), np.uint8)
    assert count(predictor.network, nn.BatchNorm2d) > 0
    first = predictor.logits(pixels)
    second = predictor.logits(pixels)
    assert count(predictor.network, nn.BatchNorm2d) == 0
    np.testing.assert_allclose(second, first, rtol=0, atol=1e-5)
    shorter = TorchPredictor(model, torch.device("cpu"), "bf16").logits(pixels)
    np.testing.assert_allclose(shorter, first, rtol=0, atol=0.2)
    assert (shorter != first).any()


class Counted(nn.Module):
    """Passes each batch on, as what shares it out to devices does; norms: how many BatchNorms each has passed."""

    norms: ClassVar[list[int]] = []

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        self.norms.append(count(self.network, nn.BatchNorm2d))
        output: Tensor = self.network(images)
        return output


def test_what_passes_then_is_the_quick_network(finished_run: Path) -> None:
    model = open_model(str(finished_run))
    predictor = TorchPredictor(model, torch.device("cpu"), "fp32", Counted)
    pixels = np.zeros((1, *model.preprocessing.image_size, 3), np.uint8)
    Counted.norms.clear()
    predictor.logits(pixels)
    predictor.expect(QUICKEN_AFTER)
    predictor.logits(pixels)
    before, after = Counted.norms
    assert before > 0 and after == 0


def test_precision_on_a_cpu_is_fp32_unless_it_is_asked_for() -> None:
    cpu = torch.device("cpu")
    assert [choose_precision(wanted, cpu) for wanted in ("auto", "fp32", "bf16", "fp16")] == [
        "fp32", "fp32", "bf16", "fp16",
    ]  # fmt: skip
