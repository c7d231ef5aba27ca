"""State dicts: compare them with a network key by key, load them, and hash them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from tlkit.files.artifact import digest
from tlkit.model.backbones import within


def is_state_dict(value: Mapping[object, object]) -> bool:
    """Whether a mapping is not empty and maps strings to tensors."""
    return bool(value) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def tensors(values: object) -> dict[str, Tensor]:
    """Return the values as a state dict. Raises TypeError if they are none."""
    if not isinstance(values, Mapping) or not is_state_dict(values):
        raise TypeError("expected a state dict")
    return dict(values)


def load_tensors(network: nn.Module, state: Mapping[str, Tensor], strict: bool = True) -> None:
    """load_state_dict for a state dict without version numbers, which MNASNet and others need. Missing keys stay."""
    versioned = network.state_dict()
    versioned.update(state)
    network.load_state_dict(versioned, strict=strict)


def without_layers(state: Mapping[str, Tensor], layers: Sequence[str]) -> dict[str, Tensor]:
    """A state dict without the keys of these layers."""
    return {key: tensor for key, tensor in state.items() if not belongs_to(key, layers)}


def list_differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor], most: int = 5) -> list[str]:
    """Lines that list missing and unexpected keys, and those of another shape or type; up to `most` of each."""
    both = [key for key in own if key in given]
    kinds = {
        "missing": [key for key in own if key not in given],
        "unexpected": [key for key in given if key not in own],
        "of another shape": [
            f"{key} {list(given[key].shape)} instead of {list(own[key].shape)}"
            for key in both
            if given[key].shape != own[key].shape
        ],
        "of another type": [
            f"{key} {given[key].dtype} instead of {own[key].dtype}"
            for key in both
            if given[key].is_floating_point() != own[key].is_floating_point() or given[key].is_complex()
        ],
    }
    return [
        f"  {len(keys)} {kind}: {', '.join(keys[:most])}{' ...' if len(keys) > most else ''}"
        for kind, keys in kinds.items()
        if keys
    ]


def belongs_to(key: str, layers: Sequence[str]) -> bool:
    """Whether a state dict key belongs to one of these layers or to an auxiliary classifier."""
    return within(key, (*layers, "aux1", "aux2", "AuxLogits"))


def weights_sha256(network: nn.Module, head: Sequence[str]) -> str:
    """SHA-256 of the names, shapes and bytes of all weights but the head; the same for every file format."""
    return digest(dict(sorted(without_layers(network.state_dict(), head).items())))
