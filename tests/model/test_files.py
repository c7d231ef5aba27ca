"""A network built without random weights is bit-equal once its weights are loaded, and is built faster."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn

from tlkit.data.preprocessing import Preprocessing
from tlkit.errors import MismatchError
from tlkit.model.backbones import build_network, find_backbone
from tlkit.model.files import ModelDescription, SkipRandomInit, load_network

NAMES = [
    "timm/test_resnet", "timm/test_vit", "timm/test_efficientnet", "torchvision/swin_v2_t", "torchvision/maxvit_t",
    "torchvision/mnasnet0_5", "torchvision/vit_b_32",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_network_is_bit_equal(name: str) -> None:
    backbone = find_backbone(name)
    usual = build_network(backbone, 3)
    with SkipRandomInit():
        found = build_network(backbone, 3)
    for key, buffer in usual.named_buffers():
        if key not in usual.state_dict():  # no file holds it
            assert torch.equal(buffer, found.get_buffer(key)), key
    found.load_state_dict(usual.state_dict())
    side = 160 if name.startswith("timm/") else 224
    images = torch.randn(1, 3, side, side)
    with torch.inference_mode():
        assert torch.equal(usual(images), found(images))


def test_no_parameter_is_drawn_inside_and_all_are_after() -> None:
    """Notices a torch whose initializers no longer pass through the mode."""
    before = torch.get_rng_state()
    with SkipRandomInit():
        nn.init.kaiming_normal_(nn.Conv2d(3, 3, 3).weight)
        nn.init.trunc_normal_(nn.Linear(3, 3).weight)
        timm.layers.trunc_normal_(nn.Linear(3, 3).weight)
    assert torch.equal(torch.get_rng_state(), before)
    layer = nn.Linear(100, 100)
    assert np.unique(layer.weight.detach().numpy()).size > 9000


def test_other_tensors_are_drawn_as_usual() -> None:
    """Buffers are in no file, and torch draws again until numbers are in range."""
    with SkipRandomInit():
        assert torch.empty(100).uniform_(1, 2).min() >= 1
        assert nn.init.trunc_normal_(torch.empty(100), 5, 1, 4, 6).min() >= 4
        assert nn.init.trunc_normal_(nn.Parameter(torch.empty(100)), 5, 1, 4, 6).min() >= 4


def described() -> ModelDescription:
    preprocessing = Preprocessing((64, 64), (64, 64), "center", "bilinear", (0.5,) * 3, (0.5,) * 3)  # type: ignore[arg-type]
    name = find_backbone("timm/test_resnet")
    return ModelDescription(name, "none", "", 64, None, "linear", None, 0, ("a", "b", "c"), preprocessing)


def test_a_network_that_reads_values_while_it_is_built_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a network cannot be built on the meta device, on which shapes are compared first."""
    description, build = described(), ModelDescription.build
    state = description.build().state_dict()

    def reading(self: ModelDescription) -> nn.Module:
        assert torch.zeros(1).item() == 0
        return build(self)

    monkeypatch.setattr(ModelDescription, "build", reading)
    found = load_network("m.pt", description, state)
    assert all(torch.equal(tensor, state[key]) for key, tensor in found.state_dict().items())
    (first, *_) = state
    with pytest.raises(MismatchError, match="do not fit"):
        load_network("m.pt", description, {key: tensor for key, tensor in state.items() if key != first})
