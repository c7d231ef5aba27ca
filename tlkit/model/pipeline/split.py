"""Split a network into stages on several devices. Its code is unchanged: hooks move activations between devices."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from tlkit.devices.select import Devices
from tlkit.errors import UsageError
from tlkit.model.pipeline.trace import Call, Dataflow, balanced, map_tensors, named_state, trace
from tlkit.terminal import compact, count, log_status

SIMPLE_CUT_TOLERANCE = 1.25
"""Simple cuts are preferred while they make the largest stage at most this many times larger."""


@dataclass(frozen=True)
class Stage:
    """A part of a network on one device.

    first: the module it begins with; "" for the first stage. holds: its parameters and buffers by name.
    activation_bytes: the output of all its operations for one image; most of it is kept if the stage trains.
    """

    device: torch.device
    first: str
    holds: Mapping[str, Tensor]
    activation_bytes: int

    @property
    def parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.holds.values() if isinstance(tensor, nn.Parameter))

    @property
    def state_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.holds.values())


@dataclass(frozen=True)
class ToDeviceHook:
    """A forward pre-hook that moves a module's inputs to the device of its stage."""

    stage: int
    device: torch.device

    def __call__(
        self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        return map_tensors(self.move, args), map_tensors(self.move, kwargs)

    def move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)


def divide(
    network: nn.Module,
    name: str,
    devices: Sequence[torch.device],
    image_size: tuple[int, int],
    split_at: Sequence[str] = (),
) -> list[Stage]:
    """Move a network from one device to several, one stage on each, in place.

    name: of the network, for messages. split_at: the modules that later stages begin with, in order; empty to balance
    the stages' parameters. Raises UsageError if the network cannot be split so.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    flow, state = trace(network, torch.zeros(1, 3, *image_size, device=device)), named_state(network)
    calls = named_cuts(flow, split_at, name) if split_at else balanced_cuts(flow, state, len(devices), name)
    cuts = [call.time for call in calls]
    stages = stages_of_state(flow, state, cuts)
    for key, tensor in state.items():
        tensor.data = tensor.data.to(devices[stages[key]])
    for call in {carrier for cut in cuts for carrier in flow.carriers(cut) or ()}:
        stage = bisect_right(cuts, call.time)
        hook = ToDeviceHook(stage, devices[stage])
        network.get_submodule(call.name).register_forward_pre_hook(hook, prepend=True, with_kwargs=True)
    return [
        Stage(
            device,
            calls[number - 1].name if number else "",
            {key: tensor for key, tensor in state.items() if stages[key] == number},
            sum(size for time, size in enumerate(flow.made_bytes) if bisect_right(cuts, time) == number),
        )
        for number, device in enumerate(devices)
    ]


def named_cuts(flow: Dataflow, names: Sequence[str], network: str) -> list[Call]:
    """The cuts before these modules. Raises UsageError."""
    once = {call.name: call for call in flow.called_once()}
    chosen: list[Call] = []
    for name in names:
        call = once.get(name)
        if call is None:
            top = ", ".join(other for other in once if "." not in other)
            problem = f"{network} has no module {name!r} that runs once per image"
            raise UsageError("--split-at", problem, f"Its top-level modules: {top}")
        if call.time <= (chosen[-1].time if chosen else 0):
            raise UsageError("--split-at", f"no part of {network} is left before {name!r}; list modules in their order")
        if flow.carriers(call.time) is None:
            possible = [other.name for other in once.values() if other.time and flow.carriers(other.time) is not None]
            possible.sort(key=lambda name: name.count("."))
            raise UsageError(
                "--split-at",
                f"{network} cannot be split at {name!r}: later modules need other tensors than its input",
                f"It can be split at: {', '.join(possible[:12]) or 'no module'}",
            )
        chosen.append(call)
    return chosen


def balanced_cuts(flow: Dataflow, state: Mapping[str, Tensor], stages: int, network: str) -> list[Call]:
    """The cuts that minimize the parameters of the largest stage. Raises UsageError if there are too few.

    Simple cuts, where only one module's input is moved (as between blocks), win unless others are much better.
    """
    total = size_before(len(flow.made_bytes), flow, state)
    simple: dict[int, Call] = {}
    every: dict[int, Call] = {}
    # Of calls with the same parameters before them, keep the outermost: its name is the clearest.
    for call in sorted(flow.called_once(), key=lambda call: call.name.count(".")):
        before, carriers = size_before(call.time, flow, state), flow.carriers(call.time)
        if 0 < before < total and carriers is not None:
            every.setdefault(before, call)
            if len(carriers) == 1:
                simple.setdefault(before, call)
    if len(every) < stages - 1:
        problem = f"{network} cannot be split into {stages} stages: it has {count(len(every), 'possible cut')}"
        raise UsageError("--parallel model", problem)
    largest, calls = best_of(every, total, stages)
    if len(simple) >= stages - 1:
        largest_of_simple, simple_calls = best_of(simple, total, stages)
        return simple_calls if largest_of_simple <= SIMPLE_CUT_TOLERANCE * largest else calls
    return calls


def best_of(cuts: Mapping[int, Call], total: int, stages: int) -> tuple[int, list[Call]]:
    """The bytes of the largest stage and the cuts that minimize them. cuts: by the bytes before each."""
    borders = sorted(cuts)
    division = balanced([end - start for start, end in pairwise([0, *borders, total])], stages)
    return division.largest, [cuts[borders[index - 1]] for index in division.begins]


def size_before(cut: int, flow: Dataflow, state: Mapping[str, Tensor]) -> int:
    """Bytes of the parameters and buffers that only operations before a cut read."""
    return sum(state[key].nbytes for key, (_, last) in flow.used.items() if last < cut)


def stages_of_state(flow: Dataflow, state: Mapping[str, Tensor], cuts: Sequence[int]) -> dict[str, int]:
    """The stage of each parameter or buffer: the one that reads it. An unread one, such as the counter of a BatchNorm,
    goes with the one before it."""
    stages: dict[str, int] = {}
    stage = 0
    for key in state:
        if key in flow.first_read:
            stage = bisect_right(cuts, flow.first_read[key])
        stages[key] = stage
    return stages


def place(network: nn.Module, name: str, devices: Devices, image_size: tuple[int, int]) -> None:
    """Move a network to its device, or split it over its devices and log the stages. name: of the network."""
    if devices.parallel != "model":
        network.to(devices.first)
        return
    for number, stage in enumerate(divide(network, name, devices.every, image_size, devices.split_at), start=1):
        begins = f"from {stage.first} on, " if stage.first else ""
        log_status(
            f"stage {number}",
            f"{stage.device}: {begins}{compact(stage.parameters)} parameters in {compact(stage.state_bytes)}B, "
            f"{compact(stage.activation_bytes)}B of activations per image",
        )
