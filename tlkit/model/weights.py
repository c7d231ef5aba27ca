"""Weights for a network from a file or a download, checked key by key; and what identifies them."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tlkit.artifact import digest, load_safely
from tlkit.errors import DataError, MismatchError, MissingInputError
from tlkit.model.backbones import BackboneName, within
from tlkit.model.sources import SOURCES

WRAPPERS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema", "teacher", "net")
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")


def read_weights_file(path: str) -> dict[str, Tensor]:
    """The state dict in a .safetensors or .pth file, freed of wrappers and prefixes.

    Raises MissingInputError, DataError (not a weights file) or UnsafeError (it would run code).
    """
    if path.endswith(".safetensors"):
        return without_prefixes(read_safetensors(path))
    content = load_safely(path)
    while isinstance(content, Mapping) and not is_state_dict(content):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not is_state_dict(content):
        keys = f" with keys {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) else ""
        raise DataError(path, f"holds no state dict, but a {type(content).__name__}{keys}")
    return without_prefixes(dict(content))


def read_safetensors(path: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file. Raises MissingInputError or DataError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not os.path.isfile(path):
        raise MissingInputError(path, "no such file")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(path, f"is not a safetensors file, or is damaged ({error})") from None


def is_state_dict(value: Mapping[Any, Any]) -> bool:
    """Whether all values are tensors, named by strings."""
    return bool(value) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strip what DataParallel, torch.compile and wrapping modules put before every name."""
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return without_prefixes({name.removeprefix(prefix): tensor for name, tensor in state.items()})
    return state


def load_weights(
    network: nn.Module, backbone: BackboneName, state: dict[str, Tensor], origin: str, head: Sequence[str]
) -> None:
    """Give a network the weights of a state dict, all but those of its head layers.

    origin: where they come from, for errors. Raises MismatchError listing keys that are missing, unexpected or
    of another shape.
    """
    if list_differences(network, state, head):
        state = adapted(network, backbone, state)
    differences = list_differences(network, state, head)
    if differences:
        raise MismatchError(origin, f"does not hold the weights of {backbone}", "\n".join(differences))
    kept = {name: tensor for name, tensor in state.items() if not belongs_to(name, head)}
    load_tensors(network, kept, strict=False)


def adapted(network: nn.Module, backbone: BackboneName, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict converted from the names and input size it was published with; as it is if it cannot be."""
    try:
        return SOURCES[backbone.source].adapt(network, state)
    except Exception:  # written for known checkpoints, a converter fails on others in any way
        return state


def load_tensors(network: nn.Module, state: Mapping[str, Tensor], strict: bool = True) -> None:
    """load_state_dict for tensors of the current layout, which MNASNet and others want to be told."""
    versions = getattr(network.state_dict(), "_metadata", None)
    named = OrderedDict(state)
    named._metadata = versions  # type: ignore[attr-defined]
    network.load_state_dict(named, strict=strict)


def list_differences(network: nn.Module, state: Mapping[str, Tensor], head: Sequence[str], most: int = 5) -> list[str]:
    """Lines that say which keys are missing, unexpected, or of another shape; the head's are ignored."""
    own = {k: v.shape for k, v in network.state_dict().items() if not belongs_to(k, head)}
    given = {k: v.shape for k, v in state.items() if not belongs_to(k, head)}
    kinds = {
        # Counters that old files lack; they are not used where BatchNorm is frozen or has a momentum.
        "missing": [k for k in own if k not in given and not k.endswith("num_batches_tracked")],
        "unexpected": [k for k in given if k not in own],
        "of another shape": [
            f"{k} {list(given[k])} instead of {list(own[k])}" for k in own if k in given and given[k] != own[k]
        ],
    }
    return [
        f"  {len(keys)} {kind}: {', '.join(keys[:most])}{' ...' if len(keys) > most else ''}"
        for kind, keys in kinds.items()
        if keys
    ]


def belongs_to(key: str, layers: Sequence[str]) -> bool:
    """Whether a state dict key is of one of these layers, or of an auxiliary classifier."""
    return within(key, (*layers, "aux1", "aux2", "AuxLogits"))


def weights_sha256(network: nn.Module, head: Sequence[str]) -> str:
    """What identifies the frozen weights: names, shapes and bytes, whatever file they came from."""
    return digest({k: v for k, v in sorted(network.state_dict().items()) if not belongs_to(k, head)})
