"""Weights from files: what fits is loaded, what does not is named, and nothing in a file is run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from tests.payloads import Canary
from tlkit.errors import DataError, MismatchError, MissingInputError, UnsafeError
from tlkit.model.backbones import build_network, find_backbone
from tlkit.model.state_dict import load_tensors, weights_sha256
from tlkit.model.weights import Weights, load_weights, read_weights_file

BACKBONE = find_backbone("timm/test_resnet")
HEAD = ("fc",)


def network(seed: int = 0, classes: int = 5, text: str = "timm/test_resnet", size: int | None = None) -> nn.Module:
    torch.manual_seed(seed)
    return build_network(find_backbone(text), classes, size)


def load(path: Path, target: nn.Module) -> None:
    load_weights(target, BACKBONE, read_weights_file(str(path)), HEAD)


def assert_backbone_equal(found: nn.Module, expected: nn.Module, head: str = "fc.") -> None:
    own, theirs = found.state_dict(), expected.state_dict()
    for key in own:
        assert torch.equal(own[key], theirs[key]) or key.startswith(head), key


WRAPPED = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "nested": lambda state: {"model_state_dict": {"state_dict": state}},
    "averaged": lambda state: {"model_ema": state},
    "data parallel": lambda state: {f"module.{k}": v for k, v in state.items()},
    "compiled and wrapped": lambda state: {"model": {f"module._orig_mod.{k}": v for k, v in state.items()}},
    "no counters": lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
    "no head": lambda state: {k: v for k, v in state.items() if not k.startswith("fc.")},
}


@pytest.mark.parametrize("how", WRAPPED)
def test_a_pth_file_is_freed_of_wrappers_and_prefixes(how: str, tmp_path: Path) -> None:
    source, target = network(1, 9), network(2)
    head = {key: value.clone() for key, value in target.fc.state_dict().items()}  # type: ignore[operator, union-attr]
    torch.save(WRAPPED[how](dict(source.state_dict())), tmp_path / "weights.pth")
    load(tmp_path / "weights.pth", target)
    assert_backbone_equal(target, source)
    assert all(torch.equal(value, head[key]) for key, value in target.fc.state_dict().items())  # type: ignore[operator, union-attr]


def test_a_safetensors_file_gives_the_same_digest_as_a_pth_file(tmp_path: Path) -> None:
    source = network(1, 9)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    digests = {weights_sha256(source, HEAD)}
    for suffix, classes in [("safetensors", 5), ("pth", 3)]:
        target = network(2, classes)
        assert weights_sha256(target, HEAD) not in digests
        load(tmp_path / f"weights.{suffix}", target)
        digests.add(weights_sha256(target, HEAD))
    assert len(digests) == 1


def changed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Seven keys missing, one unexpected, one of another shape."""
    dropped = [key for key in state if key.startswith("layer4") and "num_batches" not in key][:7]
    state = {key: value for key, value in state.items() if key not in dropped}
    return state | {"surprise.weight": torch.ones(1), "conv1.0.weight": torch.ones(2, 2)}


def test_keys_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    torch.save(changed(dict(network(1).state_dict())), tmp_path / "weights.pth")
    target = network(2)
    before = weights_sha256(target, ())
    with pytest.raises(MismatchError) as raised:
        load(tmp_path / "weights.pth", target)
    assert raised.value.exit_code == 78
    prefix, missing, unexpected, misshapen = raised.value.hint.splitlines()
    needed = [key for key in target.state_dict() if "num_batches" not in key and not key.startswith("fc.")]
    assert prefix == f"  without a prefix: {len(needed) - 8} of {len(needed)} names and shapes match"
    assert missing.strip().startswith("7 missing: layer4.")
    assert missing.count("layer4.") == 5
    assert unexpected.strip() == "1 unexpected: surprise.weight"
    assert misshapen.strip().startswith("1 of another shape: conv1.0.weight [2, 2] instead of")
    assert weights_sha256(target, ()) == before


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin"])
@pytest.mark.parametrize("torch_file", [True, False])
def test_a_file_with_code_is_refused_and_never_run(suffix: str, torch_file: bool, tmp_path: Path) -> None:
    path, canary = tmp_path / f"weights.{suffix}", tmp_path / "it ran"
    payload = {"conv1.weight": torch.ones(1), "x": Canary(canary)}
    if torch_file:
        torch.save(payload, path)
    else:
        path.write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(UnsafeError) as raised:
        load(path, network())
    assert raised.value.exit_code == 77
    assert not canary.exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_files_that_hold_no_weights(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    with pytest.raises(MissingInputError) as missing:
        read_weights_file(str(path))
    assert missing.value.exit_code == 66
    path.write_text("These are not weights.\n")
    with pytest.raises(DataError) as raised:
        read_weights_file(str(path))
    assert raised.value.exit_code == 65


@pytest.mark.parametrize("value", [{}, {"epoch": 3}, [torch.ones(1)], torch.ones(1), {"model": {"lr": 1.0}}])
def test_a_torch_file_without_state_dict(value: Any, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "weights.pth")
    with pytest.raises(DataError, match="no state dict"):
        read_weights_file(str(tmp_path / "weights.pth"))


@torch.no_grad()
@pytest.mark.parametrize("text", ["timm/test_vit", "timm/deit_tiny_distilled_patch16_224"])
def test_position_embeddings_of_another_image_size_are_resampled(text: str) -> None:
    backbone = find_backbone(text)
    source, target = network(1, 9, text), network(2, 5, text, size=96)
    load_weights(target, backbone, Weights("weights.pth", dict(source.state_dict())), ("head", "head_dist"))
    own, theirs = target.state_dict(), source.state_dict()
    assert own["pos_embed"].shape != theirs["pos_embed"].shape
    grid = list(target.patch_embed.grid_size)  # type: ignore[union-attr, arg-type]
    prefix = int(target.num_prefix_tokens)  # type: ignore[arg-type]
    assert torch.equal(own["pos_embed"], resample_abs_pos_embed(theirs["pos_embed"], grid, num_prefix_tokens=prefix))
    assert torch.equal(own["blocks.0.attn.qkv.weight"], theirs["blocks.0.attn.qkv.weight"])
    assert target(torch.zeros(1, 3, 96, 96)).shape == (1, 5)


@torch.no_grad()
def test_position_embeddings_of_torchvision_are_resampled() -> None:
    text = "torchvision/vit_b_32"
    source, target = network(1, 9, text), network(2, 5, text, size=64)
    load_weights(target, find_backbone(text), Weights("weights.pth", dict(source.state_dict())), ("heads.head",))
    own, theirs = target.state_dict(), source.state_dict()
    assert own["encoder.pos_embedding"].shape[1] == 5
    assert torch.equal(own["encoder.pos_embedding"][:, 0], theirs["encoder.pos_embedding"][:, 0])


def test_the_names_that_densenet_was_published_with() -> None:
    text = "torchvision/densenet121"
    source, target = network(1, 9, text), network(2, 5, text)
    published = {
        key.replace("norm1", "norm.1").replace("norm2", "norm.2").replace("conv1", "conv.1").replace("conv2", "conv.2")
        if "denselayer" in key else key: value
        for key, value in source.state_dict().items()
    }  # fmt: skip
    load_weights(target, find_backbone(text), Weights("densenet.pth", published), ("classifier",))
    assert_backbone_equal(target, source, "classifier.")


def test_googlenet_weights_may_hold_auxiliary_classifiers() -> None:
    text = "torchvision/googlenet"
    source, target = network(1, 9, text), network(2, 5, text)
    published = dict(source.state_dict()) | {"aux1.fc1.weight": torch.ones(1)}
    load_weights(target, find_backbone(text), Weights("googlenet.pth", published), HEAD)
    assert_backbone_equal(target, source)


def test_mnasnet_takes_a_state_dict_without_version() -> None:
    source, target = (network(seed, 5, "torchvision/mnasnet0_5") for seed in (1, 2))
    load_tensors(target, dict(source.state_dict()))
    assert_backbone_equal(target, source, "nothing")


def test_however_often_a_name_is_wrapped(tmp_path: Path) -> None:
    source, target = network(1), network(2)
    save_file({"module." * 50 + key: tensor for key, tensor in source.state_dict().items()}, tmp_path / "a.safetensors")
    load(tmp_path / "a.safetensors", target)
    assert_backbone_equal(target, source)
    save_file({"module." * 50_000 + "conv.weight": torch.ones(2)}, tmp_path / "b.safetensors")
    with pytest.raises(MismatchError):
        load(tmp_path / "b.safetensors", target)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("can't allocate memory"), OSError(12, "Cannot allocate memory")]
)
def test_memory_at_its_end_is_no_damage(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    def fail(*arguments: object, **how: object) -> None:
        raise error

    path = tmp_path / "a.safetensors"
    save_file({"conv.weight": torch.ones(2)}, path)
    monkeypatch.setattr(safetensors.torch, "load_file", fail)
    monkeypatch.setattr(torch, "load", fail)
    torch.save({"conv.weight": torch.ones(2)}, tmp_path / "a.pth")
    for file, trusted in ((path, None), (tmp_path / "a.pth", None), (tmp_path / "a.pth", str(tmp_path / "a.pth"))):
        with pytest.raises(type(error)):
            read_weights_file(str(file), trusted)
