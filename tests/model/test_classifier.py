"""A new head on a plain network: what trains, what stays, and that what is shipped computes the same."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from tlkit.errors import MismatchError, UsageError
from tlkit.model.backbones import build_network, find_backbone, preprocessing_of
from tlkit.model.classifier import Classifier, build_classifier, build_plain_network
from tlkit.model.head import HEADS, Head, HeadShape
from tlkit.model.state_dict import load_tensors

CLASSES = 7

# One small member of each way in which a network may give its logits.
BACKBONES = {
    "timm/test_resnet": "one linear layer",
    "timm/test_vit": "on a class token",
    "timm/test_efficientnet": "after a convolution",
    "timm/test_convnext": "in a head of its own",
    "timm/test_byobnet": "in a head of its own",
    "timm/deit_tiny_distilled_patch16_224": "two, averaged",
    "timm/levit_128s": "two, each after its BatchNorm",
    "timm/crossvit_9_240": "two, on features of different width",
    "timm/efficientvim_m1_dist": "eight, weighed by parameters",
    "timm/volo_d1_224": "with an auxiliary one for each token",
    "timm/resnetv2_50x1_bit": "a convolution",
    "timm/caformer_s18": "the second layer of an MLP",
    "timm/poolformerv2_s12": "on pooled maps",
    "timm/repvit_m0_9": "two after BatchNorm, one level down",
    "torchvision/squeezenet1_0": "a convolution, then a ReLU and the mean of positions",
    "torchvision/mobilenet_v3_small": "the second layer of an MLP",
    "torchvision/googlenet": "with auxiliary ones that are left out",
    "torchvision/maxvit_t": "a layer without a bias",
    "torchvision/mnasnet0_5": "in a network that asks for the version of its state dict",
}
ONE_LINEAR_LAYER = [
    "timm/test_vit",
    "timm/volo_d1_224",
    "timm/resnetv2_50x1_bit",
    "timm/caformer_s18",
    "torchvision/maxvit_t",
]


def make_classifier(text: str, head: str = "linear", unfreeze: str | None = None, classes: int = CLASSES) -> Classifier:
    """A classifier with random weights, and a head as training leaves it: nothing zero, features standardized."""
    torch.manual_seed(1)
    name = find_backbone(text)
    classifier = build_classifier(name, build_network(name, classes), CLASSES, head, 16, unfreeze)
    with torch.no_grad():
        for parameter in classifier.head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return classifier


def images_for(classifier: Classifier, count: int = 2) -> Tensor:
    backbone = classifier.backbone
    height, width = preprocessing_of(backbone.name, backbone.network, None).image_size
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(2))


def standardize(classifier: Classifier, images: Tensor) -> None:
    """Statistics of a plausible size for the features of these images."""
    with torch.no_grad():
        features = classifier.backbone(images)
    rows = features.reshape(-1, features.shape[-1])
    classifier.head.set_standardization(rows.mean(0), rows.std(0) + 0.1 * rows.std() + 1e-3)


def plain_model(text: str) -> nn.Module:
    """What anybody builds from the library."""
    source, name = text.split("/")
    if source == "timm":
        return timm.create_model(name, num_classes=CLASSES)
    extra: dict[str, Any] = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    return torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **extra)


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp_min(1.0)


@torch.no_grad()
@pytest.mark.parametrize("text", BACKBONES)
def test_a_linear_head_ships_as_the_model_that_anybody_builds(text: str) -> None:
    classifier = make_classifier(text)
    images = images_for(classifier)
    standardize(classifier, images)
    expected = classifier(images)
    assert expected.shape == (2, CLASSES)
    assert expected.std() > 0
    shipped = classifier.to_plain_network()
    plain = plain_model(text)
    versioned = shipped.state_dict()  # keeps the versions that a state dict carries along
    plain.load_state_dict(versioned, strict=True)
    assert_same(shipped(images), expected)
    assert_same(plain.eval()(images), expected)
    assert_same(classifier(images), expected)


@torch.no_grad()
@pytest.mark.parametrize("head", ["mlp", "stack"])
@pytest.mark.parametrize("text", ONE_LINEAR_LAYER)
def test_other_heads_ship_as_a_network_that_can_be_built_again(text: str, head: str) -> None:
    own = 11 if head == "stack" else CLASSES
    classifier = make_classifier(text, head, classes=own)
    images = images_for(classifier)
    standardize(classifier, images)
    expected = classifier(images)
    again = build_plain_network(classifier.backbone.name, CLASSES, head, 16, None, own if head == "stack" else None)
    load_tensors(again, classifier.to_plain_network().state_dict())
    assert_same(again.eval()(images), expected)


@pytest.mark.parametrize("text", ["torchvision/squeezenet1_0", "timm/deit_tiny_distilled_patch16_224"])
def test_an_mlp_is_refused_where_the_classifier_is_not_one_linear_layer(text: str) -> None:
    with pytest.raises(UsageError, match="--head mlp"):
        make_classifier(text, "mlp")


def test_what_is_shipped_shares_frozen_tensors_and_leaves_the_classifier_as_it_was() -> None:
    classifier = make_classifier("timm/test_resnet")
    images = images_for(classifier)
    standardize(classifier, images)
    before = {key: tensor.clone() for key, tensor in classifier.state_dict().items()}
    shipped = classifier.to_plain_network()
    own, theirs = classifier.backbone.network.state_dict(), shipped.state_dict()
    differing = {key for key in own if own[key].data_ptr() != theirs[key].data_ptr()}
    assert differing == {"fc.weight", "fc.bias"}
    assert_equal_states(classifier.state_dict(), before)
    assert classifier.head.layers.weight.requires_grad
    classifier(images).sum().backward()
    assert classifier.head.layers.weight.grad is not None
    assert not any(parameter.requires_grad for parameter in shipped.parameters())


def assert_equal_states(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


@torch.no_grad()
def test_standardisation_folds_into_the_head_and_leaves_constant_features_unscaled() -> None:
    head = Head(HEADS["linear"], HeadShape(4, 3))
    nn.init.normal_(head.layers.weight)  # type: ignore[arg-type]
    features = torch.randn(50, 4) * torch.tensor([1.0, 100.0, 0.01, 0.0]) + torch.tensor([0.0, 1e4, 1.0, 5.0])
    head.set_standardization(features.double().mean(0), features.double().std(0))
    assert torch.isfinite(head(features)).all()
    relative = head.std / head.std[3]
    assert torch.allclose(relative[:3], features.double().std(0)[:3].float(), rtol=1e-3)
    expected = head.layers.double()((features.double() - head.mean.double()) / head.std.double())
    assert torch.allclose(head.float().folded().double()(features.double()), expected, rtol=1e-4, atol=1e-3)


def test_a_layer_without_bias_is_scaled_but_not_shifted() -> None:
    head = Head(HEADS["linear"], HeadShape(4, 3, bias=False))
    head.set_standardization(torch.ones(4), torch.full((4,), 2.0))
    assert torch.equal(head.mean, torch.zeros(4))
    assert not torch.equal(head.std, torch.ones(4))
    assert head.folded().bias is None


@torch.no_grad()
def test_positions_are_classified_one_by_one_and_their_positive_parts_averaged() -> None:
    head = Head(HEADS["linear"], HeadShape(2, 1, positions=True))
    head.layers.weight.copy_(torch.tensor([[1.0, 0.0]]))  # type: ignore[operator, union-attr]
    head.layers.bias.zero_()  # type: ignore[operator, union-attr]
    assert head(torch.tensor([[[3.0, 0.0], [-1.0, 0.0]]])).tolist() == [[1.5]]
    assert head(torch.tensor([[-1.0, 0.0]])).tolist() == [[0.0]]


def train_steps(classifier: Classifier, steps: int = 3) -> None:
    optimizer = torch.optim.SGD([p for p in classifier.parameters() if p.requires_grad], lr=0.05)
    images, labels = images_for(classifier, 4), torch.tensor([0, 1, 2, 3])
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(classifier.train()(images), labels).backward()
        optimizer.step()


def test_training_moves_nothing_but_the_head() -> None:
    classifier = make_classifier("timm/test_resnet")
    frozen = {k: t.clone() for k, t in classifier.backbone.state_dict().items()}
    head = {k: t.clone() for k, t in classifier.head.state_dict().items()}
    train_steps(classifier)
    assert_equal_states(classifier.backbone.state_dict(), frozen)
    assert not torch.equal(classifier.head.state_dict()["layers.weight"], head["layers.weight"])


def test_frozen_dropout_and_depth_are_still_in_training_mode() -> None:
    name = find_backbone("timm/test_efficientnet")
    network = timm.create_model("test_efficientnet", num_classes=CLASSES, drop_rate=0.5, drop_path_rate=0.5)
    classifier = build_classifier(name, network, CLASSES, "linear", None, None).train()
    images = images_for(classifier)
    assert classifier.training
    assert torch.equal(classifier.backbone(images), classifier.backbone(images))
    assert not any(module.training for module in classifier.backbone.modules())


@pytest.mark.parametrize(
    ("unfreeze", "prefixes"),
    [
        ("layer4", ("layer4.",)),
        ("layer4.0,conv1", ("layer4.0.", "conv1.")),
        ("layer", ("layer1.", "layer2.", "layer3.", "layer4.")),
        ("all", ("",)),
    ],
)
def test_what_is_unfrozen_trains_and_nothing_else(unfreeze: str, prefixes: tuple[str, ...]) -> None:
    classifier = make_classifier("timm/test_resnet", unfreeze=unfreeze)
    network = classifier.backbone.network
    inside = {key for key in network.state_dict() if key.startswith(prefixes) and not key.startswith("fc.")}
    trained = {key for key, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == inside & {key for key, _ in network.named_parameters()}
    heads = {"head.layers.weight", "head.layers.bias", "head.mean", "head.std"}
    assert classifier.trainable_state().keys() == heads | {f"backbone.{key}" for key in inside}
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    train_steps(classifier)
    moved = {key for key, tensor in network.state_dict().items() if not torch.equal(tensor, before[key])}
    assert moved <= inside
    assert moved >= {key for key in inside if key.endswith(("running_mean", "conv1.weight"))}


def test_trainable_state_restores_a_classifier() -> None:
    trained = make_classifier("timm/test_resnet", unfreeze="layer4")
    train_steps(trained)
    restored = make_classifier("timm/test_resnet", unfreeze="layer4")
    restored.load_trainable_state(trained.trainable_state())
    assert_equal_states(restored.state_dict(), trained.state_dict())
    with pytest.raises(MismatchError, match="does not fit timm/test_resnet"):
        make_classifier("timm/test_resnet").load_trainable_state(trained.trainable_state())


@torch.no_grad()
def test_an_unfrozen_backbone_ships_what_it_learned() -> None:
    classifier = make_classifier("timm/deit_tiny_distilled_patch16_224", unfreeze="all")
    with torch.enable_grad():
        train_steps(classifier, 1)
    images = images_for(classifier)
    expected = classifier.eval()(images)
    assert_same(classifier.to_plain_network()(images), expected)


@pytest.mark.parametrize("unfreeze", ["nothing", "layer4,layer9", "", ","])
def test_a_module_that_is_not_there_is_refused(unfreeze: str) -> None:
    with pytest.raises(UsageError, match="no module") as raised:
        make_classifier("timm/test_resnet", unfreeze=unfreeze)
    assert "layer4" in raised.value.hint


def test_the_head_starts_the_same_for_a_seed() -> None:
    first, second = make_classifier("timm/test_resnet", "mlp"), make_classifier("timm/test_resnet", "mlp")
    assert_equal_states(first.state_dict(), second.state_dict())
