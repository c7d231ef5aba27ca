"""Weights of transformers load into timm's networks, tensor by tensor."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tlkit.errors import DataError, MissingInputError
from tlkit.model.backbones import build_network, classifier_layers, find_backbone
from tlkit.model.weights import load_weights, read_weights_file

State = dict[str, Tensor]

# How transformers names the layers of timm's networks: the inverse of what tlkit does, in the words of its source.
VIT = [
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^dist_token$", "embeddings.distillation_token"), (r"^cls_token$", "embeddings.cls_token"),
    (r"^blocks\.(\d+)\.", r"encoder.layer.\1."), (r"\.attn\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.attn\.proj\.", ".attention.output.dense."), (r"^norm\.", "layernorm."),
]  # fmt: skip
MLP = [
    (r"\.mlp\.fc1\.", ".intermediate.dense."), (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.norm1\.", ".layernorm_before."), (r"\.norm2\.", ".layernorm_after."),
]  # fmt: skip
SWIN = [
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."), (r"^patch_embed\.norm\.", "embeddings.norm."),
    (r"^layers\.(\d+)\.downsample\.", lambda m: f"encoder.layers.{int(m[1]) - 1}.downsample."),
    (r"^layers\.", "encoder.layers."), (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.cpb_mlp\.", ".attention.self.continuous_position_bias_mlp."),
    (r"\.attn\.q_bias$", ".attention.self.query.bias"),
    (r"\.attn\.v_bias$", ".attention.self.value.bias"), (r"\.attn\.", ".attention.self."), (r"^norm\.", "layernorm."),
]  # fmt: skip
RESNET = [
    (r"^conv1\.", "embedder.embedder.convolution."), (r"^bn1\.", "embedder.embedder.normalization."),
    (r"^layer(\d)\.(\d+)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers.{m[2]}."),
    (r"\.downsample\.0\.", ".shortcut.convolution."), (r"\.downsample\.1\.", ".shortcut.normalization."),
    (r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution."),
    (r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization."),
]  # fmt: skip
CONVNEXT = [
    (r"^stem\.0\.", "embeddings.patch_embeddings."), (r"^stem\.1\.", "embeddings.layernorm."),
    (r"^stages\.(\d)\.downsample\.", r"encoder.stages.\1.downsampling_layer."),
    (r"^stages\.(\d)\.blocks\.", r"encoder.stages.\1.layers."), (r"\.conv_dw\.", ".dwconv."), (r"\.mlp\.fc", ".pwconv"),
    (r"\.mlp\.grn\.", ".grn."), (r"\.gamma$", ".layer_scale_parameter"), (r"^head\.norm\.", "layernorm."),
    (r"\.norm\.", ".layernorm."),
]  # fmt: skip
DINOV2 = [*VIT, (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"), (r"^reg_token$", "embeddings.register_tokens")]

FAMILIES = {
    "timm/vit_tiny_patch16_224": ("vit.", [*VIT, *MLP]),
    "timm/deit_tiny_distilled_patch16_224": ("deit.", [*VIT, *MLP]),
    "timm/vit_small_patch14_dinov2": ("dinov2.", DINOV2),
    "timm/resnet18": ("resnet.", RESNET),
    "timm/resnet50": ("resnet.", RESNET),
    "timm/convnext_atto": ("convnext.", CONVNEXT),
    "timm/convnextv2_atto": ("convnextv2.", CONVNEXT),
    "timm/swin_tiny_patch4_window7_224": ("swin.", [*SWIN, *MLP]),
    "timm/swinv2_tiny_window8_256": ("swinv2.", [*SWIN, *MLP]),
}  # fmt: skip


def as_transformers(state: State, steps: list) -> State:  # type: ignore[type-arg]
    """The names of transformers for a state dict of timm."""
    renamed = {}
    for key, tensor in state.items():
        parts = {key: tensor}
        if match := re.fullmatch(r"(.*\.attn\.)qkv\.(weight|bias)", key):
            parts = {
                f"{match[1]}{part}.{match[2]}": t
                for part, t in zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            }
        for name, value in parts.items():
            for pattern, replacement in steps:
                name = re.sub(pattern, replacement, name)
            shape = (1, 1, 1, -1) if ".grn." in name else value.shape[:2] if ".pwconv" in name else value.shape
            renamed[name] = value.reshape(shape).clone()
    return renamed


def network(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    found = build_network(find_backbone(name), 5)
    for tensor in found.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1)
    return found


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_weights_of_transformers(name: str, wrapped: bool, tmp_path: Path) -> None:
    prefix, steps = FAMILIES[name]
    source, target = network(name, 1), network(name, 2)
    backbone = find_backbone(name)
    layers = classifier_layers(backbone, source, 5)
    body = {
        k: v for k, v in source.state_dict().items() if not any(k.startswith(f"{h}.") for h in layers.output_layers)
    }
    state = as_transformers(body, steps)
    if wrapped:
        state = {prefix + key: tensor for key, tensor in state.items()}
        state["classifier.weight"] = torch.ones(3, 4)
    elif "embeddings.cls_token" in state:
        state["pooler.dense.weight"] = torch.ones(3, 3)
    if "dinov2" in name:
        state[f"{prefix if wrapped else ''}embeddings.mask_token"] = torch.ones(1, 4)
    save_file(state, tmp_path / "model.safetensors")
    load_weights(target, backbone, read_weights_file(str(tmp_path)), layers.output_layers)
    found = target.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in body.items())


@pytest.fixture
def state() -> State:
    return dict(network("timm/test_resnet", 1).state_dict())


def backbone_of(path: Path) -> State:
    target = network("timm/test_resnet", 2)
    load_weights(target, find_backbone("timm/test_resnet"), read_weights_file(str(path)), ("fc",))
    return dict(target.state_dict())


def write_parts(folder: Path, state: State, suffix: str) -> Path:
    """A snapshot in two parts, with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "model.safetensors" if suffix == "safetensors" else "pytorch_model.bin"
    keys = list(state)
    parts = {f"part-1.{suffix}": keys[:9], f"part-2.{suffix}": keys[9:]}
    for file, names in parts.items():
        content = {key: state[key] for key in names}
        save_file(content, folder / file) if suffix == "safetensors" else torch.save(content, folder / file)
    weight_map = {key: file for file, names in parts.items() for key in names}
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder / f"{name}.index.json"


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("what", ["index", "folder", "cache"])
def test_a_snapshot_in_parts(suffix: str, what: str, state: State, tmp_path: Path) -> None:
    index = write_parts(tmp_path / "models--a--b" / "snapshots" / "0123", state, suffix)
    path = {"index": index, "folder": index.parent, "cache": tmp_path / "models--a--b"}[what]
    found = backbone_of(path)
    assert all(torch.equal(found[key], tensor) for key, tensor in state.items() if not key.startswith("fc."))
    (index.parent / f"part-2.{suffix}").unlink()
    with pytest.raises(MissingInputError, match="part-2"):
        read_weights_file(str(path))


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "", 3, "model.safetensors.index.json"])
def test_an_index_names_files_of_its_folder_only(name: object, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(DataError):
        read_weights_file(str(tmp_path))


def test_a_folder_is_named_as_what_it_holds(state: State, tmp_path: Path) -> None:
    (tmp_path / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(DataError, match="only weights for TensorFlow"):
        read_weights_file(str(tmp_path))
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert backbone_of(tmp_path).keys() == state.keys()
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "a.pth")
    (tmp_path / "tf_model.h5").unlink()
    assert backbone_of(tmp_path).keys() == state.keys()
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(DataError, match=r"several files of weights \(a\.pth, b\.pth\)"):
        read_weights_file(str(tmp_path))
