"""One pass of a network, watched: what each operation reads, and where the network can be cut in two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


@dataclass(frozen=True, eq=False)
class Call:
    """A module that was entered. time: the number of operations before it. takes: the tensors it was given."""

    name: str
    time: int
    takes: frozenset[int]


@dataclass(frozen=True)
class Read:
    """An operation that read a tensor that another made, inside of these calls, the outermost first."""

    tensor: int
    made: int
    time: int
    calls: tuple[Call, ...]

    def crosses(self, cut: int) -> bool:
        """Whether the tensor was made before a cut and read after it."""
        return self.made < cut <= self.time

    def carrier(self, cut: int) -> Call | None:
        """The outermost call after the cut that was given the tensor: what moves its inputs moves this."""
        return next((call for call in self.calls if call.time >= cut and self.tensor in call.takes), None)


@dataclass
class Dataflow:
    """What happened in a pass.

    used: first and last operation that read a parameter or buffer, by its name, where no module was given it.
    first_read: the first that did at all. made_bytes: what each operation added to memory.
    """

    calls: list[Call] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    used: dict[str, tuple[int, int]] = field(default_factory=dict)
    first_read: dict[str, int] = field(default_factory=dict)
    made_bytes: list[int] = field(default_factory=list)

    def called_once(self) -> list[Call]:
        """The calls of modules that were entered only once, in order."""
        times: dict[str, int] = {}
        for call in self.calls:
            times[call.name] = times.get(call.name, 0) + 1
        return [call for call in self.calls if times[call.name] == 1]

    def carriers(self, cut: int) -> set[Call] | None:
        """The calls of modules whose inputs must be moved where the network is cut in two before an operation.

        None if it cannot be cut there: something reaches over the cut that no module is given.
        """
        if any(first < cut <= last for first, last in self.used.values()):
            return None
        found = [read.carrier(cut) for read in self.reads if read.crosses(cut)]
        carriers = {call for call in found if call is not None}
        return carriers if None not in found and carriers <= set(self.called_once()) else None


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation; hooks tell it of the modules."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flow = Dataflow()
        self.state = {id(tensor): name for name, tensor in named_state(network).items()}
        self.entered: list[Call] = []
        self.made: Any = WeakIdKeyDictionary()  # tensor -> its number, and the operation that made it
        self.numbers = 0

    def number(self, tensor: Tensor, time: int) -> int:
        """Give a tensor that is new, or has been written to, its number."""
        self.numbers += 1
        self.made[tensor] = (self.numbers, time)
        return self.numbers

    def look_up(self, tensor: Tensor) -> tuple[int, int]:
        """Number and origin of a tensor; what was there before the pass was made before all operations."""
        if tensor not in self.made:
            self.number(tensor, -1)
        found: tuple[int, int] = self.made[tensor]
        return found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
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
        """A hook for a module that is entered."""

        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            takes = frozenset(self.look_up(tensor)[0] for tensor in tensors_in((args, kwargs)))
            self.entered.append(Call(name, len(self.flow.made_bytes), takes))
            self.flow.calls.append(self.entered[-1])

        return hook

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """A hook for a module that is left."""
        self.entered.pop()


def named_state(network: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, each once, those of a module side by side."""
    found = {
        id(tensor): (f"{prefix}.{name}" if prefix else name, tensor)
        for prefix, module in network.named_modules()
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]
        if tensor is not None
    }
    return dict(found.values())


def tensors_in(values: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    return (value for value in tree_leaves(values) if isinstance(value, Tensor))


@torch.no_grad()
def trace(network: nn.Module, example: Tensor) -> Dataflow:
    """Pass an example [1, 3, H, W] through a network in eval mode, and tell what happened."""
    recorder = Recorder(network)
    with reporting(network, recorder), recorder:
        network(example)
    return recorder.flow


@contextmanager
def reporting(network: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Have every module but the network itself tell the recorder when it is entered and left."""
    handles = []
    for name, module in network.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(recorder.enter(name), with_kwargs=True))
            handles.append(module.register_forward_hook(recorder.leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, order=True)
class Division:
    """A sequence in parts. largest, squares: of their sums; the smaller the better. begins: the index that each later
    part begins at."""

    largest: int
    squares: int
    begins: tuple[int, ...]

    def after(self, size: int, begin: int) -> Division:
        """With one more part before it, of this size."""
        return Division(max(size, self.largest), size**2 + self.squares, (begin, *self.begins))


def balanced(sizes: Sequence[int], parts: int) -> Division:
    """The division into parts of which the largest sum is as small as can be.

    There must be as many sizes as parts.
    """
    totals = [sum(sizes[start:]) for start in range(len(sizes))]
    best = {start: Division(total, total**2, ()) for start, total in enumerate(totals)}  # of sizes[start:]
    for _ in range(parts - 1):
        best = {
            start: min(best[begin].after(totals[start] - totals[begin], begin) for begin in best if begin > start)
            for start in range(max(best))
        }
    return best[0]
