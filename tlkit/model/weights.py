"""Read weights from a file or folder, find those of the backbone in it, and load them into a network."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tlkit.errors import DataError, MismatchError
from tlkit.files.artifact import open_torch_file
from tlkit.files.inputs import open_input
from tlkit.files.other_formats import other_format
from tlkit.files.pickles import unsafe
from tlkit.files.safetensors_file import is_safetensors, read_safetensors
from tlkit.files.trusted import is_trusted
from tlkit.model.backbones import BackboneName
from tlkit.model.copies import Copy, Needed, find_copies
from tlkit.model.state_dict import list_differences, load_tensors, without_layers
from tlkit.model.weights_folder import INDEX_SUFFIX, parts_of, weights_files_in
from tlkit.terminal import log_status

MOST_LISTED = 5

LONGEST_NAME = 1000
"""Characters of a name in a network."""


@dataclass(frozen=True)
class Weights:
    """All tensors of a file, named by the path of keys that leads to them.

    origin: the file or backbone, for errors. skipped: names of classes whose objects were not read.
    """

    origin: str
    tensors: Mapping[str, Tensor]
    skipped: tuple[str, ...] = ()


def read_weights_file(path: str, trusted: str | None = None) -> Weights:
    """Read the tensors of a .safetensors or torch file, of a folder with one, or of the parts that an index lists.

    trusted: the file that may run code, if any. Raises MissingInputError, DataError (not a weights file) or UnsafeError
    (nothing but code would rebuild its weights).
    """
    if os.path.isdir(path) or path.endswith(INDEX_SUFFIX):
        files = weights_files_in(path) if os.path.isdir(path) else parts_of(path)
        parts = [read_weights_file(file, trusted) for file in files]
        tensors = {name: tensor for part in parts for name, tensor in part.tensors.items()}
        return Weights(path, tensors, tuple(name for part in parts for name in part.skipped))
    with open_input(path) as file:
        safetensors = is_safetensors(file)
        other = None if is_trusted(path, trusted) else other_format(file, path)
    if other is not None:
        raise DataError(path, f"is {other.description}", other.advice)
    if safetensors or (path.endswith(".safetensors") and not is_trusted(path, trusted)):
        return Weights(path, read_safetensors(path).state)
    file_content = open_torch_file(path, trusted, skip_objects=True)
    content = file_content.content
    tensors = dict(tensors_in(content)) if isinstance(content, (Mapping, nn.Module)) else {}
    if tensors:
        return Weights(path, tensors, file_content.skipped)
    if file_content.skipped:
        raise unsafe(path, f"only code would rebuild its content ({', '.join(file_content.skipped[:MOST_LISTED])})")
    keys = f" with keys {', '.join(map(str, list(content)[:MOST_LISTED]))}" if isinstance(content, Mapping) else ""
    raise DataError(path, f"contains no state dict, but a {type(content).__name__}{keys[:200]}")


def tensors_in(content: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested containers and modules, with the keys that lead to it, joined by dots."""
    if isinstance(content, Tensor):
        yield path, content
    elif isinstance(content, (nn.Module, Mapping, list, tuple)):
        items = content.state_dict() if isinstance(content, nn.Module) else content
        pairs = items.items() if isinstance(items, Mapping) else enumerate(items)
        for key, value in pairs:
            yield from tensors_in(value, f"{path}.{key}" if path else str(key))


def load_weights(
    network: nn.Module, backbone: BackboneName, weights: Weights, head: Sequence[str], key: str | None = None
) -> None:
    """Load weights into a network, except its head layers. key: of the copy to take, if the file has several.

    Raises MismatchError, DataError (a value is not a number) or UnsafeError as find_weights.
    """
    state = find_weights(network, backbone, weights, head, key)
    load_tensors(network, without_layers(state, head), strict=False)


def find_weights(
    network: nn.Module, backbone: BackboneName, weights: Weights, head: Sequence[str], key: str | None = None
) -> dict[str, Tensor]:
    """The network's weights in a file, with the names and shapes of the network.

    Raises MismatchError (none are complete, or several are and none is preferred), DataError (a value is not a number)
    or UnsafeError (the file holds little else but objects that only code would rebuild).
    """
    needed = Needed(network, backbone, head)
    copies = find_copies(needed, weights.tensors)
    chosen = [copy for copy in copies if key is None or copy.is_named(key)]
    if not chosen:
        raise refusal(needed, weights, copies, key)
    equals = [copy for copy in chosen if copy.rank == chosen[0].rank]
    if len(equals) > 1:
        names = ", ".join(copy.prefix or "the file itself" for copy in equals[:MOST_LISTED])
        problem = f"contains {len(equals)} different copies of the weights of {backbone}: {names}"
        raise MismatchError(weights.origin, problem, f"Choose one: --weights-key {equals[-1].prefix}")
    log_choice(weights, chosen[0], copies)
    state = chosen[0].state
    for name in needed.required:
        if not torch.isfinite(state[name]).all():
            where = f"{chosen[0].prefix}: {name}" if chosen[0].prefix else name
            problem = f"is damaged: the tensor {where} contains values that are not finite (NaN or infinity)"
            raise DataError(weights.origin, problem, "Use another file, or another copy in it: --weights-key NAME")
    return state


def log_choice(weights: Weights, chosen: Copy, copies: Sequence[Copy]) -> None:
    """Log which copy was taken and what was skipped, unless the file holds nothing else."""
    parts = [f"taken from {chosen.prefix}"] if chosen.prefix else []
    if len(copies) > 1:
        others = ", ".join(copy.prefix or "the top level" for copy in copies if copy is not chosen)
        parts = [f"taken from {chosen.prefix or 'the top level'} (--weights-key chooses another: {others})"]
    if weights.skipped:
        parts.append(f"skipped Python objects: {', '.join(weights.skipped[:MOST_LISTED])}")
    if parts:
        log_status("weights", f"{os.path.basename(weights.origin)}: {'; '.join(parts)}")


def refusal(needed: Needed, weights: Weights, copies: Sequence[Copy], key: str | None) -> Exception:
    """The error for a file without complete weights: the prefixes found, matching keys of each, and examples."""
    if copies:
        names = ", ".join(copy.prefix or "(top level)" for copy in copies[:MOST_LISTED])
        problem = f"contains no complete weights of {needed.backbone} under {key!r}"
        return MismatchError(weights.origin, problem, f"Complete copies: {names}")
    counts = matches(needed, weights.tensors).most_common(MOST_LISTED)
    if not counts:
        tops = Counter(f"{name.partition('.')[0]}." for name in weights.tensors if "." in name)
        counts = [(prefix, 0) for prefix, _ in tops.most_common(MOST_LISTED)]
    best, most = next(((prefix, count) for prefix, count in counts if count), ("", 0))
    if weights.skipped and 2 * most < len(needed.required):
        return unsafe(
            weights.origin, f"only code would rebuild its content ({', '.join(weights.skipped[:MOST_LISTED])})"
        )
    lines = [
        f"  {f'under the prefix {prefix}' if prefix else 'without a prefix'}: "
        f"{count} of {len(needed.required)} names and shapes match"
        for prefix, count in counts
    ]
    below = {name[len(best) :]: tensor for name, tensor in weights.tensors.items() if name.startswith(best)}
    own = {name: needed.own[name] for name in needed.own if name in needed.required or name in below}
    lines += list_differences(own, without_layers(below, needed.head))
    return MismatchError(weights.origin, f"does not hold the weights of {needed.backbone}", "\n".join(lines))


def matches(needed: Needed, tensors: Mapping[str, Tensor]) -> Counter[str]:
    """For each prefix in a file, the number of tensors whose name behind it, and shape, are the network's.

    Of several prefixes of one name, the shortest counts.
    """
    counts: Counter[str] = Counter()
    for name, tensor in tensors.items():
        for start in (0, *(match.end() for match in re.finditer(r"\.", name[-LONGEST_NAME:]))):
            offset = max(0, len(name) - LONGEST_NAME) + start if start else 0
            own = needed.own.get(name[offset:])
            if own is not None and own.shape == tensor.shape and name[offset:] in needed.required:
                counts[name[:offset]] += 1
                break
    return counts
