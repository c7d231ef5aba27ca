"""Trace one pass through a network: which tensors each operation reads, and where the network can be cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode  # no public name; torch<3 in pyproject.toml
from torch.utils.weak import WeakIdKeyDictionary

Values = TypeVar("Values")
"""Nested tuples, lists and dicts of tensors and other values."""


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a module. time: the number of operations before it. takes: the numbers of its input tensors."""

    name: str
    time: int
    takes: frozenset[int]


@dataclass(frozen=True)
class Read:
    """An operation (at `time`) that read a tensor of another (at `made`), inside these calls, outermost first."""

    tensor: int
    made: int
    time: int
    calls: tuple[Call, ...]

    def crosses(self, cut: int) -> bool:
        """Whether the tensor is made before a cut and read after it."""
        return self.made < cut <= self.time

    def carrier(self, cut: int) -> Call | None:
        """The outermost call after the cut with the tensor as input: moving its inputs moves the tensor."""
        return next((call for call in self.calls if call.time >= cut and self.tensor in call.takes), None)


@dataclass
class Dataflow:
    """The trace of a pass.

    used: parameter or buffer -> first and last operation that read it, where it was no module's input. first_read: the
    first operation that read it at all. made_bytes: memory that each operation allocated.
    """

    calls: list[Call] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    used: dict[str, tuple[int, int]] = field(default_factory=dict)
    first_read: dict[str, int] = field(default_factory=dict)
    made_bytes: list[int] = field(default_factory=list)

    def called_once(self) -> list[Call]:
        """The calls of modules that were called only once, in order."""
        times = Counter(call.name for call in self.calls)
        return [call for call in self.calls if times[call.name] == 1]

    def carriers(self, cut: int) -> set[Call] | None:
        """The calls whose inputs must be moved if the network is cut before an operation.

        None if it cannot be cut there, because a tensor crosses the cut that is not the input of a module.
        """
        if any(first < cut <= last for first, last in self.used.values()):
            return None
        found = [read.carrier(cut) for read in self.reads if read.crosses(cut)]
        carriers = {call for call in found if call is not None}
        return carriers if None not in found and carriers <= set(self.called_once()) else None


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every operation; hooks record the calls of modules."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flow = Dataflow()
        self.state = {id(tensor): name for name, tensor in named_state(network).items()}
        self.entered: list[Call] = []
        # tensor -> its number, and the operation that made it
        self.made: MutableMapping[Tensor, tuple[int, int]] = WeakIdKeyDictionary()
        self.numbers = 0

    def number(self, tensor: Tensor, time: int) -> int:
        """Number a tensor that is new or was written to."""
        self.numbers += 1
        self.made[tensor] = (self.numbers, time)
        return self.numbers

    def look_up(self, tensor: Tensor) -> tuple[int, int]:
        """Number of a tensor and the operation that made it: -1 if it existed before the pass."""
        if tensor not in self.made:
            self.number(tensor, -1)
        return self.made[tensor]

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        flow = self.flow
        time = len(flow.made_bytes)
        given = [tensor for tensor in tensors_in((args, kwargs)) if tensor.ndim or id(tensor) in self.state]
        for tensor in given:
            name, number = self.state.get(id(tensor)), self.look_up(tensor)
            if name is None or any(number[0] in call.takes for call in self.entered):
                flow.reads.append(Read(*number, time, tuple(self.entered)))
            else:
                flow.used[name] = (flow.used.get(name, (time, time))[0], time)
            if name is not None:
                flow.first_read.setdefault(name, time)
        result = func(*args, **(kwargs or {}))
        known = {tensor.untyped_storage().data_ptr() for tensor in given}
        made = [tensor for tensor in tensors_in(result) if id(tensor) not in self.state]
        for tensor in made:
            self.number(tensor, time)
        flow.made_bytes.append(sum(t.nbytes for t in made if t.untyped_storage().data_ptr() not in known))
        return result

    def enter(self, name: str) -> Callable[..., None]:
        """A forward pre-hook for the module of this name."""

        def hook(module: nn.Module, args: object, kwargs: object) -> None:
            takes = frozenset(self.look_up(tensor)[0] for tensor in tensors_in((args, kwargs)))
            self.entered.append(Call(name, len(self.flow.made_bytes), takes))
            self.flow.calls.append(self.entered[-1])

        return hook

    def leave(self, module: nn.Module, args: object, output: object) -> None:
        """A forward hook for every module."""
        self.entered.pop()


def named_state(network: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, each once, in the order of modules."""
    found = {
        id(tensor): (f"{prefix}.{name}" if prefix else name, tensor)
        for prefix, module in network.named_modules()
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    }
    return dict(found.values())


def map_tensors(function: Callable[[Tensor], object], values: Values) -> Values:
    """Apply a function to every tensor in nested tuples, lists and dicts."""
    if isinstance(values, Tensor):
        return cast(Values, function(values))
    kind: Callable[..., Values] = type(values)
    if isinstance(values, dict):
        return kind({key: map_tensors(function, value) for key, value in values.items()})
    if isinstance(values, (list, tuple)):
        mapped = [map_tensors(function, value) for value in values]
        return kind(*mapped) if hasattr(values, "_fields") else kind(mapped)  # a named tuple
    return values


def tensors_in(values: object) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    found: list[Tensor] = []
    map_tensors(found.append, values)
    return found


@torch.no_grad()
def trace(network: nn.Module, example: Tensor) -> Dataflow:
    """Pass an example [1, 3, H, W] through a network in eval mode and return the trace. The network stays as it was."""
    recorder = Recorder(network)
    training = {module: module.training for module in network.modules()}
    handles = []
    for name, module in network.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(recorder.enter(name), with_kwargs=True))
            handles.append(module.register_forward_hook(recorder.leave))
    try:
        with recorder:
            network.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return recorder.flow


@dataclass(frozen=True, order=True)
class Division:
    """A sequence divided into parts, ordered from best to worst.

    largest, squares: largest sum of a part, and sum of squared sums. begins: the first index of each later part.
    """

    largest: int
    squares: int
    begins: tuple[int, ...]

    def after(self, size: int, begin: int) -> Division:
        """This division with one more part of this size before it."""
        return Division(max(size, self.largest), size**2 + self.squares, (begin, *self.begins))


def balanced(sizes: Sequence[int], parts: int) -> Division:
    """The division that minimizes the largest sum of a part. Needs at least as many sizes as parts."""
    totals = [sum(sizes[start:]) for start in range(len(sizes))]
    best = {start: Division(total, total**2, ()) for start, total in enumerate(totals)}  # of sizes[start:]
    for _ in range(parts - 1):
        best = {
            start: min(best[begin].after(totals[start] - totals[begin], begin) for begin in best if begin > start)
            for start in range(max(best))
        }
    return best[0]
