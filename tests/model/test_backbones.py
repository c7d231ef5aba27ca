"""Names of backbones, networks built from them, and what goes with them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import LITE0
from tlkit.errors import UnavailableError, UsageError
from tlkit.model.backbones import (
    BackboneName,
    build_network,
    classifier_layers,
    download_weights,
    find_backbone,
    list_backbones,
    preferred_image_size,
    preprocessing_of,
    pretrained_classes,
    pretrained_outputs,
)
from tlkit.model.sources import SOURCES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("timm/resnet18", "timm/resnet18"),
        ("torchvision/resnet18", "torchvision/resnet18"),
        ("resnet18", "timm/resnet18"),
        ("maxvit_t", "torchvision/maxvit_t"),
        ("resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
    ],
)
def test_a_name_is_looked_up_in_timm_and_then_in_torchvision(text: str, expected: str) -> None:
    assert str(find_backbone(text)) == expected


@pytest.mark.parametrize(
    ("text", "nearest"), [("resnet81", "resnet18"), ("timm/vit_tny_patch16_224", "vit_tiny_patch16_224")]
)
def test_an_unknown_name_is_answered_with_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(UsageError) as raised:
        find_backbone(text)
    assert nearest in raised.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "", "/", "timm/", "hf-hub:timm/resnet18.a1_in1k", "hf_hub:timm/resnet18", "timm/hf-hub:timm/resnet18",
        "https://example.org/resnet18.pth", "local-dir:/tmp", "timm/local-dir:.", "torchvision/test_vit",
        "resnet18.no_such_tag", "torchvision/fcn_resnet50", "keras/resnet50", "../resnet18",
    ],
)  # fmt: skip
def test_nothing_but_listed_names_is_accepted(text: str) -> None:
    with pytest.raises(UsageError):
        find_backbone(text)


def test_all_backbones_are_listed_and_a_pattern_selects() -> None:
    everything = list_backbones(None)
    assert len({str(name) for name in everything}) == len(everything) > 1000
    assert sum(name.source == "torchvision" for name in everything) >= 80
    assert BackboneName("torchvision", "resnet18") in list_backbones("resnet18")
    assert all("resnet" in name.name for name in list_backbones("resnet"))
    assert {name.source for name in list_backbones("torchvision/")} == {"torchvision"}
    assert BackboneName("timm", "vit_tiny_patch16_224") in list_backbones("vit_*_patch16_224")
    assert list_backbones("no such thing") == []


def test_an_image_size_changes_a_network_that_has_one() -> None:
    own, other = (build_network(find_backbone("timm/test_vit"), 3, size) for size in (None, 96))
    assert own.pos_embed.shape != other.pos_embed.shape
    assert other(torch.zeros(1, 3, 96, 96)).shape == (1, 3)
    backbone = find_backbone("timm/test_vit")
    assert preprocessing_of(backbone, other, 96).image_size == (96, 96)
    assert preprocessing_of(backbone, own, None).image_size == (160, 160)


@pytest.mark.parametrize("text", ["timm/test_resnet", "torchvision/resnet18"])
def test_networks_of_any_size_take_an_image_size_in_their_preprocessing(text: str) -> None:
    backbone = find_backbone(text)
    network = build_network(backbone, 3, 96)
    assert preprocessing_of(backbone, network, 96).image_size == (96, 96)
    assert network(torch.zeros(2, 3, 96, 96)).shape == (2, 3)


def test_torchvision_networks_with_an_image_size() -> None:
    with torch.device("meta"):
        assert build_network(find_backbone("torchvision/vit_b_32"), 3, 64)(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    with pytest.raises(UsageError, match="takes 224 only"):
        build_network(find_backbone("torchvision/maxvit_t"), 3, 96)


def test_a_size_that_a_network_cannot_have_is_refused_or_fits() -> None:
    with pytest.raises(UsageError, match="cannot be built"):
        build_network(find_backbone("torchvision/vit_b_32"), 3, 50)


@pytest.mark.parametrize(
    ("text", "output_layers", "auxiliary"),
    [
        ("timm/test_resnet", ("fc",), ()),
        ("timm/deit_tiny_distilled_patch16_224", ("head", "head_dist"), ()),
        ("timm/levit_128s", ("head.linear", "head_dist.linear"), ()),
        ("timm/levit_384_s8", ("head.linear", "head_dist.linear"), ()),
        ("timm/volo_d1_224", ("head",), ("aux_head",)),
        ("timm/efficientvim_m1", ("heads.0", "heads.1", "heads.2", "heads.3"), ("weights",)),
        ("torchvision/vgg11", ("classifier.6",), ()),
        ("torchvision/squeezenet1_1", ("classifier.1",), ()),
    ],
)
def test_the_classifier_is_found(text: str, output_layers: tuple[str, ...], auxiliary: tuple[str, ...]) -> None:
    backbone = find_backbone(text)
    with torch.device("meta"):
        layers = classifier_layers(backbone, build_network(backbone, 7), 7)
    assert (layers.output_layers, layers.auxiliary) == (output_layers, auxiliary)


def test_a_network_without_classifier_is_refused() -> None:
    backbone = BackboneName("timm", "test_resnet")
    network = build_network(backbone, 7)
    network.set_submodule("fc", nn.Identity())
    with pytest.raises(UsageError, match="no classifier"):
        classifier_layers(backbone, network, 7)


def test_the_same_preprocessing_for_inputs_that_googlenet_normalises_itself() -> None:
    backbone = find_backbone("torchvision/googlenet")
    assert preprocessing_of(backbone, nn.Identity(), None).mean == (0.5, 0.5, 0.5)


def test_only_dinov2_prefers_a_smaller_image() -> None:
    assert preferred_image_size(find_backbone("vit_small_patch14_dinov2")) == 224
    assert preferred_image_size(find_backbone("vit_tiny_patch16_224")) is None
    assert preferred_image_size(find_backbone("torchvision/resnet18")) is None


def test_pretrained_classes() -> None:
    assert pretrained_classes(find_backbone("timm/resnet18")) == 1000
    assert pretrained_classes(find_backbone("torchvision/resnet18")) == 1000
    assert pretrained_outputs(find_backbone("vit_small_patch14_dinov2")) == 0
    with pytest.raises(UsageError, match="no class outputs"):
        pretrained_classes(find_backbone("vit_small_patch14_dinov2"))


@pytest.mark.parametrize(
    ("text", "host", "file"),
    [
        (
            "timm/test_resnet",
            "huggingface.co",
            "huggingface.co/timm/test_resnet.r160_in1k/resolve/main/model.safetensors",
        ),
        ("torchvision/mobilenet_v3_small", "download.pytorch.org", "with --weights FILE, or put it into "),
    ],
)
@pytest.mark.parametrize(
    "error", [OSError("Name or service not known\nsecond line"), RuntimeError("no weights"), KeyError("")]
)
def test_weights_that_cannot_be_downloaded(
    text: str, host: str, file: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = find_backbone(text)

    def fail(name: str, network: nn.Module) -> dict[str, Tensor]:
        raise error

    monkeypatch.setattr(SOURCES[backbone.source], "download", fail)
    with pytest.raises(UnavailableError) as raised:
        download_weights(backbone, nn.Identity())
    assert raised.value.exit_code == 69
    assert "\n" not in str(raised.value)
    assert f"from {host} " in str(raised.value)
    for words in (file, f"tlkit fetch {text} -o DIR", "--weights FILE", "--weights DIR", "--weights none", LITE0):
        assert words in raised.value.hint


def test_a_network_without_published_weights_is_named_so() -> None:
    backbone = find_backbone("timm/botnet50ts_256")
    with pytest.raises(UnavailableError, match="has no published weights") as raised:
        download_weights(backbone, nn.Identity())
    assert "fetch" not in raised.value.hint and LITE0 in raised.value.hint
