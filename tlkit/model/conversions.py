"""Convert weights that another project has named to the names of a timm network."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

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


def from_efficientnet_pytorch(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of EfficientNet-PyTorch and EfficientNet-Lite to timm's; blocks are numbered within stages there.

    Raises LookupError for a name that has no counterpart.
    """
    blocks = list(dict.fromkeys(key[:end] for key in network.state_dict() if (end := block_end(key))))
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


def block_end(key: str) -> int:
    """Length of the prefix blocks.STAGE.NUMBER of a timm name; 0 without one."""
    match = re.match(r"blocks\.\d+\.\d+(?=\.)", key)
    return match.end() if match else 0
