"""Read weights from a file, check them key by key, load them into a network, and hash them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from tlkit.errors import DataError, MismatchError
from tlkit.files.artifact import digest, load_safely
from tlkit.files.inputs import open_input
from tlkit.files.safetensors_file import is_safetensors, read_safetensors
from tlkit.files.trusted import is_trusted
from tlkit.model.backbones import BackboneName, within
from tlkit.model.sources import SOURCES
from tlkit.model.weights_folder import weights_file_in

WRAPPERS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema", "teacher", "net")
"""Keys under which training scripts store the state dict."""

PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")


def read_weights_file(path: str, trusted: str | None = None) -> dict[str, Tensor]:
    """Read the state dict from any .safetensors or torch file or a folder, without wrappers and prefixes.

    trusted: the file that may run code, if any. Raises MissingInputError, DataError (not a weights file) or UnsafeError
    (it would run code).
    """
    if os.path.isdir(path):
        path = weights_file_in(path)
    with open_input(path) as file:
        safetensors = is_safetensors(file)
    if safetensors or (path.endswith(".safetensors") and not is_trusted(path, trusted)):
        return without_prefixes(read_safetensors(path).state)
    content = load_safely(path, trusted)
    while not (isinstance(content, Mapping) and is_state_dict(content)):
        if isinstance(content, nn.Module):
            content = content.state_dict()
            continue
        inside = [content[key] for key in WRAPPERS if key in content] if isinstance(content, Mapping) else []
        inner = next((value for value in inside if isinstance(value, (Mapping, nn.Module))), None)
        if inner is None:
            keys = f" with keys {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) else ""
            raise DataError(path, f"contains no state dict, but a {type(content).__name__}{keys[:200]}")
        content = inner
    return without_prefixes(dict(content))


def is_state_dict(value: Mapping[object, object]) -> bool:
    """Whether a mapping is not empty and maps strings to tensors."""
    return bool(value) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def tensors(values: object) -> dict[str, Tensor]:
    """Return the values as a state dict. Raises TypeError if they are none."""
    if not isinstance(values, Mapping) or not is_state_dict(values):
        raise TypeError("expected a state dict")
    return dict(values)


def without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that DataParallel, torch.compile and wrapper modules add to every name."""
    start = 0
    while prefix := next((p for p in PREFIXES if state and all(name.startswith(p, start) for name in state)), ""):
        start += len(prefix)
    return {name[start:]: tensor for name, tensor in state.items()}


def load_weights(
    network: nn.Module, backbone: BackboneName, state: dict[str, Tensor], origin: str, head: Sequence[str]
) -> None:
    """Load a state dict into a network, except its head layers.

    origin: the file or backbone, for errors. Raises MismatchError listing missing, unexpected and misshapen keys.
    """
    if differences_from(network, state, head):
        state = adapted(network, backbone, state)
    differences = differences_from(network, state, head)
    if differences:
        raise MismatchError(origin, f"does not hold the weights of {backbone}", "\n".join(differences))
    load_tensors(network, without_layers(state, head), strict=False)


def adapted(network: nn.Module, backbone: BackboneName, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert published names and input size to this network's; unchanged if the library cannot convert it."""
    try:
        return SOURCES[backbone.source].adapt(network, state)
    except Exception:  # a converter raises anything for a checkpoint it was not written for
        return state


def load_tensors(network: nn.Module, state: Mapping[str, Tensor], strict: bool = True) -> None:
    """load_state_dict for a state dict without version numbers, which MNASNet and others need. Missing keys stay."""
    versioned = network.state_dict()
    versioned.update(state)
    network.load_state_dict(versioned, strict=strict)


def differences_from(network: nn.Module, state: Mapping[str, Tensor], head: Sequence[str]) -> list[str]:
    """list_differences without the head, which weights need not have."""
    own = without_layers(network.state_dict(), head)
    # Old files lack these counters, which are unused where BatchNorm is frozen or has a momentum.
    needed = {key: own[key] for key in own if key in state or not key.endswith("num_batches_tracked")}
    return list_differences(needed, without_layers(state, head))


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
