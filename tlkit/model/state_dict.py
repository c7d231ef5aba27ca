"""State dicts: compare them with a network key by key, load them, and hash them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from tlkit.files.artifact import digest
from tlkit.model.backbones import within


def tensors(values: object) -> dict[str, Tensor]:
    """Return the values as a state dict. Raises TypeError unless they are tensors by names, and at least one."""
    if not isinstance(values, Mapping) or not values:
        raise TypeError("expected a state dict")
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in values.items()):
        raise TypeError("expected a state dict")
    return dict(values)


def load_tensors(network: nn.Module, state: Mapping[str, Tensor], strict: bool = True) -> None:
    """load_state_dict for a state dict without version numbers, which MNASNet and others need. Missing keys stay."""
    versioned = network.state_dict()
    versioned.update(state)
    network.load_state_dict(versioned, strict=strict)


def without_layers(state: Mapping[str, Tensor], layers: Sequence[str]) -> dict[str, Tensor]:
    """A state dict without the keys of these layers, and of auxiliary classifiers."""
    layers = (*layers, "aux1", "aux2", "AuxLogits")
    return {key: tensor for key, tensor in state.items() if not within(key, layers)}


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


def weights_sha256(network: nn.Module, head: Sequence[str]) -> str:
    """SHA-256 of the names, shapes and bytes of all weights but the head; the same for every file format."""
    return digest(dict(sorted(without_layers(network.state_dict(), head).items())))
