"""Convert weights that another project has named to the names of a timm network.

A conversion may be tried on any file: the result is used only if every name and shape fits the network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


@dataclass(frozen=True)
class Renaming:
    """A naming scheme. marker: a key that its files have. steps: regular expressions and replacements, in order."""

    marker: str
    steps: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]

    def applies(self, state: Mapping[str, Tensor]) -> bool:
        """Whether a file has the marker."""
        return any(re.search(self.marker, key) for key in state)

    def rename(self, key: str) -> str:
        """The new name."""
        for pattern, replacement in self.steps:
            key = re.sub(pattern, replacement, key)
        return key


MODEL_TYPE = (r"^(?!embeddings\.|encoder\.|embedder\.)\w+\.(?=embeddings\.|encoder\.|embedder\.|layernorm\.)", "")
"""The name of the model type that transformers puts before the backbone, such as vit. or dinov2."""

TRANSFORMERS = Renaming(
    r"(^|\.)embeddings\.patch_embeddings\.projection\.weight$",
    (
        MODEL_TYPE,
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^embeddings\.norm\.", "patch_embed.norm."),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.distillation_token$", "dist_token"),
        (r"^embeddings\.", ""),
        (r"^encoder\.layer\.", "blocks."),
        (r"^encoder\.", ""),
        (r"\.attention\.(attention|self)\.", ".attn."),
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
        (r"\.mlp\.weights_in\.", ".mlp.fc1."),
        (r"\.mlp\.weights_out\.", ".mlp.fc2."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
        (r"\.continuous_position_bias_mlp\.", ".cpb_mlp."),
        (r"^layernorm\.", "norm."),
        (r"^(cls_)?classifier\.", "head."),
        (r"^distillation_classifier\.", "head_dist."),
    ),
)
"""ViT, DeiT, DINOv2 and Swin of transformers, to the names of timm or of the original projects, which timm converts."""

TRANSFORMERS_RESNET = Renaming(
    r"(^|\.)embedder\.embedder\.convolution\.weight$",
    (
        MODEL_TYPE,
        (r"^embedder\.embedder\.convolution\.", "conv1."),
        (r"^embedder\.embedder\.normalization\.", "bn1."),
        (r"^encoder\.stages\.(\d+)\.layers\.", lambda match: f"layer{int(match[1]) + 1}."),
        (r"\.layer\.(\d+)\.convolution\.", lambda match: f".conv{int(match[1]) + 1}."),
        (r"\.layer\.(\d+)\.normalization\.", lambda match: f".bn{int(match[1]) + 1}."),
        (r"\.shortcut\.convolution\.", ".downsample.0."),
        (r"\.shortcut\.normalization\.", ".downsample.1."),
        (r"^classifier\.1\.", "fc."),
    ),
)

TRANSFORMERS_CONVNEXT = Renaming(
    r"(^|\.)embeddings\.patch_embeddings\.weight$",
    (
        MODEL_TYPE,
        (r"^embeddings\.patch_embeddings\.", "downsample_layers.0.0."),
        (r"^embeddings\.layernorm\.", "downsample_layers.0.1."),
        (r"^encoder\.stages\.(\d+)\.downsampling_layer\.", r"downsample_layers.\1."),
        (r"^encoder\.stages\.(\d+)\.layers\.", r"stages.\1."),
        (r"\.layernorm\.", ".norm."),
        (r"\.layer_scale_parameter$", ".gamma"),
        (r"\.grn\.weight$", ".grn.gamma"),
        (r"\.grn\.bias$", ".grn.beta"),
        (r"^layernorm\.", "norm."),
        (r"^classifier\.", "head."),
    ),
)
"""ConvNeXt and ConvNeXtV2 of transformers, to the names of the original project, which timm converts."""

CHUNKED_BLOCKS = Renaming(r"^blocks\.\d+\.\d+\.norm1\.weight$", ((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),))
"""Checkpoints of DINOv2's own training, which group the blocks; they are numbered through."""


def from_renaming(scheme: Renaming, state: Mapping[str, Tensor]) -> State:
    """Rename every key, and join the matrices of query, key and value where all three have them."""
    renamed = {scheme.rename(key): tensor for key, tensor in state.items()}
    for name in [name for name in renamed if re.search(r"\.attn\.query\.(weight|bias)$", name)]:
        before, _, leaf = name.rpartition("query.")
        parts = {part: renamed.pop(f"{before}{part}.{leaf}", None) for part in ("query", "key", "value")}
        present = {part: tensor for part, tensor in parts.items() if tensor is not None}
        if len(present) == len(parts):
            renamed[f"{before}qkv.{leaf}"] = torch.cat(list(present.values()))
        else:  # Swin V2 has no bias for keys
            renamed |= {f"{before}{part[0]}_{leaf}": tensor for part, tensor in present.items()}
    return renamed


BLOCK = re.compile(r"_blocks\.(\d+)\.(\w+)\.(.+)")

WIDENED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand", "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
"""The layers of a block that widens its input first."""

SEPARABLE = {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1",
    "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand", "_project_conv": "conv_pw", "_bn2": "bn2",
}  # fmt: skip
"""The layers of a block that does not, as the first of each network."""

OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


def from_efficientnet_pytorch(network: nn.Module, state: Mapping[str, Tensor]) -> State:
    """Names of EfficientNet-PyTorch and EfficientNet-Lite to timm's; blocks are numbered within stages there.

    Raises LookupError for a name that has no counterpart.
    """
    numbered = (re.match(r"blocks\.\d+\.\d+(?=\.)", key) for key in network.state_dict())
    blocks = list(dict.fromkeys(match[0] for match in numbered if match))
    widened = {match[1] for key in state if (match := BLOCK.fullmatch(key)) and match[2] == "_expand_conv"}
    converted = {}
    for key, tensor in state.items():
        if match := BLOCK.fullmatch(key):
            number, layer, rest = match.groups()
            names = WIDENED if number in widened else SEPARABLE
            converted[f"{blocks[int(number)]}.{names[layer]}.{rest}"] = tensor
        else:
            layer, _, rest = key.partition(".")
            converted[f"{OUTSIDE[layer]}.{rest}"] = tensor
    return converted


def from_sequence(network: nn.Module, state: Mapping[str, Tensor]) -> State:
    """Names of nn.Sequential(*network.children()), where the children have numbers, to their names."""
    children = dict(enumerate(name for name, _ in network.named_children()))
    converted = {}
    for key, tensor in state.items():
        number, dot, rest = key.partition(".")
        child = children.get(int(number)) if number.isdecimal() and len(number) < 4 else None
        converted[f"{child or number}{dot}{rest}"] = tensor
    return converted


def conversions_of(network: nn.Module, state: Mapping[str, Tensor]) -> list[Callable[[], State]]:
    """The conversions that a file's names call for. Each may raise LookupError."""
    found: list[Callable[[], State]] = [
        lambda scheme=scheme: from_renaming(scheme, state)  # type: ignore[misc]
        for scheme in (TRANSFORMERS, TRANSFORMERS_RESNET, TRANSFORMERS_CONVNEXT, CHUNKED_BLOCKS)
        if scheme.applies(state)
    ]
    if "_conv_stem.weight" in state:
        found.append(lambda: from_efficientnet_pytorch(network, state))
    if any(key[:1].isdecimal() for key in state):
        found.append(lambda: from_sequence(network, state))
    return found
