"""Find the weights of a network in a file: under any prefix, wrapped, in several copies, or in another naming.

No list of prefixes is needed: a copy is a prefix under which every name and shape that the network needs is found.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tlkit.model.backbones import BackboneName
from tlkit.model.conversions import State, conversions_of
from tlkit.model.sources import SOURCES
from tlkit.model.state_dict import list_differences, without_layers

LONGEST_PREFIX = 1000
"""Characters. Longer prefixes are not tried."""

PREFERRED = (r"ema|teacher|averag\w*|swa|polyak|shadow", r"online|query|q|base", r"target")
"""Words in the names of copies, best first: averaged weights; the encoder that contrastive methods publish; the slow
copy of an encoder that has no better name."""

DISCARDED = r"momentum|key|k"
"""Words in the names of encoders that contrastive methods discard. They are taken last."""


@dataclass(frozen=True)
class Copy:
    """A complete copy. prefix: of its names in the file, without the last dot. state: with the network's names."""

    prefix: str
    state: State

    def is_named(self, key: str) -> bool:
        """Whether words of the prefix, or the whole prefix and wrappers behind it, are this key."""
        return f".{key}." in f".{self.prefix}." or (self.prefix != "" and key.startswith(f"{self.prefix}."))

    @property
    def rank(self) -> int:
        """The place of the best word of the prefix in PREFERRED; behind it without one, and last for DISCARDED."""
        words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.prefix).lower())
        for place, pattern in enumerate(PREFERRED):
            if any(re.fullmatch(pattern, word) for word in words):
                return place
        return len(PREFERRED) + any(re.fullmatch(DISCARDED, word) for word in words)


WRAPPERS = re.compile(r"\b(_orig_mod|_forward_module|_\w+_wrapped_module|module)\.")
"""Words that torch.compile, activation checkpointing, FSDP and others insert into names."""


class Needed:
    """The tensors that a network needs from a file: all except its classifier and unused counters."""

    def __init__(self, network: nn.Module, backbone: BackboneName, head: Sequence[str]) -> None:
        self.network, self.backbone, self.head = network, backbone, head
        self.own = without_layers(network.state_dict(), head)
        self.required = [key for key in self.own if not key.endswith("num_batches_tracked")]
        self.words = {word for key in self.own for word in key.split(".")}

    def differences(self, state: Mapping[str, Tensor]) -> list[str]:
        """Lines that list missing, unexpected and misshapen keys; empty for a complete copy.

        Keys of other modules (a projector, a loss, another head) are no difference. Keys inside the network's own
        modules, or of parts that the network could have, are: it would compute something else without them.
        """
        needed = {key: tensor for key, tensor in self.own.items() if key in state or key in self.required}
        inside = {key: state[key] for key in state if key in self.own or self.is_part(key)}
        return list_differences(needed, without_layers(inside, self.head))

    def is_part(self, key: str) -> bool:
        """Whether a key that the network lacks belongs to it."""
        first, _, rest = key.partition(".")
        if key.endswith("num_batches_tracked"):
            return False
        is_token = not rest and re.fullmatch(r"(?!mask)\w*_tokens?", first) is not None
        return is_token or (hasattr(self.network, first) and not hasattr(nn.Module, first))

    def unwrapped(self, state: Mapping[str, Tensor]) -> State:
        """Without the words that wrappers insert into names, such as _orig_mod in layer1._orig_mod.0.conv1.weight.

        These are words that the network has nowhere. Names that would become equal keep them.
        """
        short = {}
        for key in state:
            first, *middle, last = key.split(".") if "." in key else ("", key)
            short[key] = ".".join([first, *(word for word in middle if word in self.words), last]).removeprefix(".")
        count = Counter(short.values())
        return {short[key] if count[short[key]] == 1 else key: tensor for key, tensor in state.items()}

    def fitted(self, state: State) -> State | None:
        """The state with the network's names and shapes; None if it is not a complete copy."""
        for candidate in self.attempts(state):
            if not self.differences(candidate):
                return candidate
        return None

    def attempts(self, state: State) -> Iterator[State]:
        """A state as it is, unwrapped, converted by the library, and by each conversion of other projects."""
        yield state
        yield self.unwrapped(state)
        # Names that are still to be converted have words that the network lacks, so only known wrappers go.
        state = {WRAPPERS.sub("", key): tensor for key, tensor in state.items()}
        yield self.adapted(state)
        for convert in conversions_of(self.network, state):
            try:
                converted = convert()
            except (LookupError, RuntimeError):  # a file that only looks like one of that project
                continue
            yield converted
            yield self.adapted(converted)

    def adapted(self, state: State) -> State:
        """Convert published names and input size to this network's; unchanged if the library cannot convert it."""
        try:
            return SOURCES[self.backbone.source].adapt(self.network, dict(state))
        except Exception:  # a converter raises anything for a checkpoint it was not written for
            return state


def prefixes_of(tensors: Mapping[str, Tensor], needed: int) -> list[str]:
    """The prefixes under which a file has at least half as many tensors as needed, shortest first; "" is the file."""
    counts: Counter[str] = Counter()
    for key in tensors:
        end = 0
        while (end := key.find(".", end) + 1) and end < LONGEST_PREFIX:
            counts[key[:end]] += 1
    large = [prefix for prefix, count in counts.items() if 2 * count >= needed]
    return ["", *sorted(large, key=len)]


def find_copies(needed: Needed, tensors: Mapping[str, Tensor]) -> list[Copy]:
    """All different complete copies of a network's weights in a file, the preferred one first."""
    found: list[Copy] = []
    for prefix in prefixes_of(tensors, len(needed.required)):
        state = {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        fitted = needed.fitted(state)
        if fitted is not None and not any(same_tensors(needed, fitted, copy.state) for copy in found):
            found.append(Copy(prefix.rstrip("."), fitted))
    return sorted(found, key=lambda copy: copy.rank)


def same_tensors(needed: Needed, one: State, other: State) -> bool:
    """Whether two copies are equal."""
    return all(torch.equal(one[key], other[key]) for key in needed.required)
