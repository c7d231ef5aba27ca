"""A network divided into stages, each on a device of its own. Its code stays as it is: activations are moved."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from tlkit.devices.select import Devices
from tlkit.errors import UsageError
from tlkit.model.pipeline.trace import Call, Dataflow, balanced, named_state, trace
from tlkit.terminal import compact, log_status

MUCH = 1.25
"""How many times larger the largest stage may be, for the sake of simple cuts."""


@dataclass(frozen=True)
class Stage:
    """A part of a network. first: the module it begins with; empty for the first stage.

    parameters: how many numbers. state_bytes: of them and of buffers. activation_bytes: what its operations make of one
    image; a step that trains all of them keeps most of that, a pass that trains nothing little.
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
    """A hook of a module whose inputs come from another stage."""

    stage: int
    device: torch.device

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        return tree_map_only(Tensor, self.move, (args, kwargs))

    def move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)


def divide(
    network: nn.Module,
    name: str,
    devices: Sequence[torch.device],
    image_size: tuple[int, int],
    split_at: Sequence[str] = (),
) -> list[Stage]:
    """Put a network that lies on one device on several, in place: a stage on each.

    split_at: the modules that later stages begin with, in order; none to balance the stages by their parameters.
    name: of the network, for people. Raises UsageError for a network that cannot be divided so.
    """
    flow, state = watch_example(network, image_size), named_state(network)
    calls = named_cuts(flow, split_at, name) if split_at else balanced_cuts(flow, state, len(devices), name)
    cuts = [call.time for call in calls]
    stages = stages_of_state(flow, state, cuts)
    for key, tensor in state.items():
        tensor.data = tensor.data.to(devices[stages[key]])
    for call in {carrier for cut in cuts for carrier in flow.carriers(cut) or ()}:
        stage = stage_at(call.time, cuts)
        entrance = ToDeviceHook(stage, devices[stage])
        network.get_submodule(call.name).register_forward_pre_hook(entrance, prepend=True, with_kwargs=True)
    return [
        Stage(
            device,
            calls[number - 1].name if number else "",
            {key: tensor for key, tensor in state.items() if stages[key] == number},
            sum(size for time, size in enumerate(flow.made_bytes) if stage_at(time, cuts) == number),
        )
        for number, device in enumerate(devices)
    ]


def watch_example(network: nn.Module, image_size: tuple[int, int]) -> Dataflow:
    """What happens when one image passes and nothing trains."""
    training = {module: module.training for module in network.modules()}
    place = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    try:
        return trace(network.eval(), torch.zeros(1, 3, *image_size, device=place))
    finally:
        for module, mode in training.items():
            module.training = mode


def named_cuts(flow: Dataflow, names: Sequence[str], network: str) -> list[Call]:
    """The cuts before modules of these names. Raises UsageError."""
    once = {call.name: call for call in flow.called_once()}
    chosen: list[Call] = []
    for name in names:
        call = once.get(name)
        if call is None:
            top = ", ".join(other for other in once if "." not in other)
            raise UsageError(
                "--split-at",
                f"{network} has no module {name!r} that an image passes once",
                f"At the top it has: {top}.",
            )
        if call.time <= (chosen[-1].time if chosen else 0):
            raise UsageError("--split-at", f"nothing of {network} is left before {name!r}; name modules in their order")
        if flow.carriers(call.time) is None:
            raise UsageError(
                "--split-at",
                f"{network} cannot be split at {name!r}: more than its input would have to move there",
                f"It can be split at: {', '.join(splittable(flow)) or 'no module'}.",
            )
        chosen.append(call)
    return chosen


def splittable(flow: Dataflow, most: int = 12) -> list[str]:
    """Modules that a network can be split at, those highest in it first; so many at most."""
    names = [call.name for call in flow.called_once() if call.time and flow.carriers(call.time) is not None]
    return sorted(names, key=lambda name: name.count("."))[:most]


def balanced_cuts(flow: Dataflow, state: Mapping[str, Tensor], stages: int, network: str) -> list[Call]:
    """The cuts after which the largest stage has as few parameters as can be. Raises UsageError.

    Those where the input of one module is all that moves, as between blocks, are taken unless others are much better.
    """
    total = size_before(len(flow.made_bytes), flow, state)
    simple: dict[int, Call] = {}
    every: dict[int, Call] = {}
    # Of calls with the same parameters before them, the highest in the network says best where that is.
    for call in sorted(flow.called_once(), key=lambda call: call.name.count(".")):
        before, carriers = size_before(call.time, flow, state), flow.carriers(call.time)
        if 0 < before < total and carriers is not None:
            every.setdefault(before, call)
            if len(carriers) == 1:
                simple.setdefault(before, call)
    if len(every) < stages - 1:
        places = count_of_places(len(every))
        raise UsageError("--parallel model", f"{network} cannot be split into {stages} stages: {places}")
    largest, calls = best_of(every, total, stages)
    if len(simple) >= stages - 1:
        largest_of_simple, simple_calls = best_of(simple, total, stages)
        return simple_calls if largest_of_simple <= MUCH * largest else calls
    return calls


def best_of(cuts: Mapping[int, Call], total: int, stages: int) -> tuple[int, list[Call]]:
    """Of cuts, by the bytes before each, those that divide best; and the bytes of the largest stage."""
    borders = sorted(cuts)
    division = balanced([end - start for start, end in pairwise([0, *borders, total])], stages)
    return division.largest, [cuts[borders[index - 1]] for index in division.begins]


def count_of_places(number: int) -> str:
    return f"it can be split in {number} places" if number else "nowhere is the input of modules all that would move"


def size_before(cut: int, flow: Dataflow, state: Mapping[str, Tensor]) -> int:
    """Bytes of the parameters and buffers that no operation after a cut reads."""
    return sum(state[key].nbytes for key, (_, last) in flow.used.items() if last < cut)


def stages_of_state(flow: Dataflow, state: Mapping[str, Tensor], cuts: Sequence[int]) -> dict[str, int]:
    """The stage that each parameter or buffer belongs to: that which reads it; of what none reads, that of its
    neighbor, as the counter of a BatchNorm."""
    stages: dict[str, int] = {}
    stage = 0
    for key in state:
        if key in flow.first_read:
            stage = stage_at(flow.first_read[key], cuts)
        stages[key] = stage
    return stages


def stage_at(time: int, cuts: Sequence[int]) -> int:
    """The stage that an operation is in."""
    return bisect_right(cuts, time)


Size = tuple[int, int]
"""(height, width) of the images that enter."""


def place(network: nn.Module, name: str, devices: Devices, image_size: Size) -> None:
    """Put a network on its devices, a stage on each where there are stages. name: of the network, for people."""
    if devices.parallel == "model":
        log_stages(divide(network, name, devices.every, image_size, devices.split_at))
    else:
        network.to(devices.first)


def log_stages(stages: Sequence[Stage]) -> None:
    """What lies where, for people."""
    for number, stage in enumerate(stages, start=1):
        begins = f"from {stage.first} on, " if stage.first else ""
        log_status(
            f"stage {number}",
            f"{stage.device}: {begins}{compact(stage.parameters)} parameters in {compact(stage.state_bytes)}B, "
            f"{compact(stage.activation_bytes)}B of activations for each image",
        )
