"""The input of the classifier is kept during its own pass only."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tlkit.model.backbone import Backbone
from tlkit.model.backbones import build_network, classifier_layers, find_backbone


@pytest.fixture
def backbone() -> Backbone:
    name = find_backbone("timm/test_resnet")
    torch.manual_seed(0)
    network = build_network(name, 10)
    return Backbone(name, network, classifier_layers(name, network, 10))


def leaf_of(backbone: Backbone) -> nn.Module:
    assert backbone.layers is not None
    return backbone.network.get_submodule(backbone.layers.output_layers[0])


def test_passes_in_several_threads_do_not_mix(backbone: Backbone) -> None:
    """As DataParallel has them, whose copies of a module share its hooks."""
    images = [torch.randn(2, 3, 32, 32) for _ in range(2)]
    with torch.no_grad():
        expected = [backbone(image) for image in images]
        both_inside = threading.Barrier(2, timeout=60)
        found: dict[int, Tensor] = {}

        def wait(module: nn.Module, inputs: Any) -> None:
            both_inside.wait()

        leaf_of(backbone).register_forward_pre_hook(wait)

        def run(number: int) -> None:
            with torch.no_grad():
                found[number] = backbone(images[number])

        threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(torch.equal(found[number], expected[number]) for number in range(2))


def test_a_pass_that_fails_leaves_nothing_behind(backbone: Backbone) -> None:
    def fail(module: nn.Module, inputs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    leaf_of(backbone).register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        backbone(torch.randn(2, 3, 32, 32))
    assert not backbone._classifier_inputs


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_vit", "timm/test_convnext", "timm/test_efficientnet"])
def test_families_of_timm_offer_to_compute_activations_again(name: str) -> None:
    known = find_backbone(name)
    network = build_network(known, 10)
    assert Backbone(known, network, classifier_layers(known, network, 10)).keep_activations(False)


def test_networks_that_cannot_are_told(backbone: Backbone) -> None:
    for name in ("torchvision/resnet18", "timm/vgg11"):
        known = find_backbone(name)
        network = build_network(known, 10)
        assert not Backbone(known, network, classifier_layers(known, network, 10)).keep_activations(False)


def test_a_plain_copy_has_no_hooks_and_leaves_those_of_the_backbone(backbone: Backbone) -> None:
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = backbone(images)
        backbone.plain_copy()(images)
        assert not backbone._classifier_inputs
        assert torch.equal(backbone(images), expected)
