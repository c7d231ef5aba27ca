"""A network built to be given weights is the same network, only quicker to build."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from tlkit.model.files import without_random_numbers


def build(name: str) -> nn.Module:
    if name.startswith("test_"):
        return timm.create_model(name, num_classes=3)
    return torchvision.models.get_model(name, num_classes=3)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "swin_v2_t", "maxvit_t"])
def test_given_its_weights_it_is_the_same(name: str) -> None:
    usual = build(name).eval()
    with without_random_numbers("timm" if name.startswith("test_") else "torchvision"):
        skeleton = build(name).eval()
    for key, buffer in usual.named_buffers():
        if key not in usual.state_dict():  # nobody loads it, so it must be right already
            assert torch.equal(buffer, skeleton.get_buffer(key)), key
    skeleton.load_state_dict(usual.state_dict())
    side = 224 if name == "maxvit_t" else 160
    images = torch.randn(1, 3, side, side)
    with torch.inference_mode():
        assert torch.equal(usual(images), skeleton(images))


def test_nothing_is_drawn_inside_and_everything_after() -> None:
    before = torch.get_rng_state()
    with without_random_numbers("timm"):
        nn.init.trunc_normal_(nn.Linear(3, 3).weight)
        nn.init.trunc_normal_(nn.Linear(3, 3).weight, a=5, b=6)
        nn.init.kaiming_normal_(nn.Conv2d(3, 3, 3).weight)
        timm.layers.trunc_normal_(nn.Linear(3, 3).weight)
    assert torch.equal(torch.get_rng_state(), before)
    layer = nn.Linear(100, 100)
    assert np.unique(layer.weight.detach().numpy()).size > 9000


def test_what_is_not_known_is_drawn_as_ever() -> None:
    """A loop that draws until a number suits it must come to its end."""
    with without_random_numbers("timm"):
        number = torch.empty(1).normal_()
        while not number > 0:
            number.normal_()
        assert torch.empty(100).uniform_(1, 2).min() >= 1
