"""A network on several devices: the same numbers, and no operation that is given tensors of two stages."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from tlkit.errors import UsageError
from tlkit.model.backbones import build_network, find_backbone
from tlkit.model.optimize import optimized_for_inference
from tlkit.model.pipeline.split import Stage, ToDeviceHook, divide
from tlkit.model.pipeline.trace import balanced, tensors_in

CPU = torch.device("cpu")
TWO = (CPU, CPU)
FAMILIES = {
    "torchvision/resnet18": "layer4.1",
    "timm/test_resnet": "layer3",
    "timm/test_convnext": "stages.2",
    "timm/test_vit": "blocks.3",
    "timm/test_efficientnet": "blocks.2",
    "timm/test_byobnet": "stages.2",
}
"""With a module at which each can be split."""


class Whereabouts(TorchDispatchMode):
    """Stands in for devices: knows the stage that each tensor lies in, counts moves, and fails where one operation is
    given tensors of two stages, as torch would if they were on two GPUs."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.stage_of: Any = WeakIdKeyDictionary()
        self.moves = 0
        self.operations = [0] * len(stages)
        for number, stage in enumerate(stages):
            for tensor in stage.holds.values():
                self.stage_of[tensor] = number

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [t for t in tensors_in((args, kwargs)) if t.ndim and t in self.stage_of]
        stages = {self.stage_of[tensor] for tensor in given}
        assert len(stages) <= 1, f"{func} is given tensors of stages {stages}"
        result = func(*args, **(kwargs or {}))
        for stage in stages:
            self.operations[stage] += 1
            for tensor in tensors_in(result):
                self.stage_of[tensor] = stage
        return result

    def move(self, entrance: ToDeviceHook, tensor: Tensor) -> Tensor:
        """What Entrance.move does, seen."""
        if self.stage_of.get(tensor, entrance.stage) == entrance.stage:
            return tensor
        self.moves += 1
        moved: Tensor = Move.apply(tensor, entrance.stage, self)
        return moved


class Move(torch.autograd.Function):
    """A copy in another stage, whose gradient goes back to where it came from."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, stage: int, whereabouts: Whereabouts) -> Tensor:
        ctx.back, ctx.whereabouts = whereabouts.stage_of[tensor], whereabouts
        copied = tensor.clone()
        whereabouts.stage_of[copied] = stage
        return copied

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        copied = gradient.clone()
        ctx.whereabouts.stage_of[copied] = ctx.back
        return copied, None, None


@contextmanager
def whereabouts(stages: Sequence[Stage], images: Tensor) -> Iterator[Whereabouts]:
    watching = Whereabouts(stages)
    watching.stage_of[images] = 0
    with patch.object(ToDeviceHook, "move", lambda entrance, tensor: watching.move(entrance, tensor)), watching:
        yield watching


def watched_pass(whole: nn.Module, network: nn.Module, stages: Sequence[Stage], images: Tensor) -> tuple[int, bool]:
    """Pass and go back through a network as it was and in stages. How many tensors moved, and whether logits, gradients
    and statistics are the same bits."""
    torch.manual_seed(1)
    expected = whole(images)
    expected.square().sum().backward()
    torch.manual_seed(1)
    with whereabouts(stages, images) as watching:
        logits = network(images)
        logits.square().sum().backward()
    assert min(watching.operations) > 0 and watching.stage_of[logits] == len(stages) - 1
    same = [torch.equal(logits, expected)]
    for one, other in zip(network.parameters(), whole.parameters(), strict=True):
        same.append(one.grad is other.grad or torch.equal(one.grad, other.grad))
    for one, other in zip(network.buffers(), whole.buffers(), strict=True):
        same.append(torch.equal(one, other))
    return watching.moves, all(same)


def network_named(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_network(find_backbone(name), 10)


def pictures(side: int = 64) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def side_of(name: str) -> int:
    return 160 if name == "timm/test_vit" else 64


@pytest.mark.parametrize("by_hand", [False, True], ids=["balanced", "by hand"])
@pytest.mark.parametrize("name", FAMILIES)
def test_two_stages_give_what_one_device_gives(name: str, by_hand: bool) -> None:
    whole = network_named(name)
    network, images = copy.deepcopy(whole), pictures(side_of(name))
    stages = divide(network, name, TWO, tuple(images.shape[2:]), (FAMILIES[name],) if by_hand else ())
    assert not by_hand or stages[1].first == FAMILIES[name]
    assert sum(len(stage.holds) for stage in stages) == len(whole.state_dict())
    assert watched_pass(whole, network, stages, images) == (1, True)


def test_training_goes_over_the_borders_too() -> None:
    whole = network_named("timm/test_resnet")
    network, images = copy.deepcopy(whole), pictures()
    stages = divide(network, "test_resnet", (CPU,) * 3, (64, 64))
    for one in (whole, network):
        one.train()
    moves, same = watched_pass(whole, network, stages, images)
    assert same and moves >= 2


@pytest.mark.parametrize(("begins", "moves"), [("layer3", 1), ("layer3.0.bn2", 1)])
def test_an_optimized_copy_is_divided_as_its_original(begins: str, moves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both stages are on one device, so a BatchNorm that begins a stage is folded, and its input need not move."""
    network, images = network_named("timm/test_resnet").eval(), pictures()
    quick = optimized_for_inference(network, (64, 64))(images)
    divide(network, "test_resnet", TWO, (64, 64), (begins,))
    moved: list[Tensor] = []
    monkeypatch.setattr(ToDeviceHook, "move", lambda entrance, tensor: moved.append(tensor) or tensor)
    divided = optimized_for_inference(network, (64, 64))
    moved.clear()
    torch.testing.assert_close(divided(images), quick)
    assert len(moved) == moves, "the input of the stage, or what bypasses the folded BatchNorm"


class Reaching(nn.Module):
    """What its first layer makes, its last one reads: nothing between them is all that moves."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, images: Tensor) -> Tensor:
        first = self.first(images)
        return self.last(self.middle(first) + first * images).mean((2, 3))


class Lending(nn.Module):
    """A table that every layer is given, as positions are in many transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(4))
        self.register_buffer("table", torch.rand(8, 8))

    def forward(self, images: Tensor) -> Tensor:
        for layer in self.layers:
            images = layer(images, table=self.table)
        return images.mean((2, 3))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor, table: Tensor) -> Tensor:
        return self.convolution(images) + table


def test_what_every_layer_is_given_moves_to_each() -> None:
    whole = Lending()
    network, images = copy.deepcopy(whole), torch.randn(2, 3, 8, 8)
    stages = divide(network, "it", TWO, (8, 8))
    assert stages[1].first == "layers.2" and "table" in stages[0].holds
    assert watched_pass(whole, network, stages, images) == (3, True)


class Sharing(nn.Module):
    """One layer for all."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(self.layer(images)).mean((2, 3))


class Tied(Reaching):
    """Two layers with the same weights, and one between."""

    def __init__(self) -> None:
        super().__init__()
        self.last.weight = self.first.weight

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.middle(self.first(images))).mean((2, 3))


def test_what_cannot_be_divided_is_refused() -> None:
    for network in (Sharing(), Tied()):
        with pytest.raises(UsageError, match="--parallel model: it cannot be split into 2 stages"):
            divide(network, "it", TWO, (8, 8))
    with pytest.raises(UsageError, match=r"--split-at: it cannot be split at 'middle'.*") as caught:
        divide(Reaching(), "it", TWO, (8, 8), ("middle",))
    assert "last" in caught.value.hint
    with pytest.raises(UsageError, match="cannot be split into 9 stages: it has 1 possible cut"):
        divide(Reaching(), "it", (CPU,) * 9, (8, 8))


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("layer9",), "no module 'layer9'"),
        (("conv1",), "no part of test_resnet is left before 'conv1'"),
        (("layer3", "layer2"), "no part of test_resnet is left before 'layer2'"),
        (("layer3.0.downsample",), "cannot be split at 'layer3.0.downsample'"),
    ],
)
def test_names_that_cannot_be_split_at_are_refused(names: tuple[str, ...], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        divide(network_named("timm/test_resnet"), "test_resnet", (CPU,) * (len(names) + 1), (64, 64), names)


def test_a_refused_division_changes_nothing() -> None:
    network = network_named("timm/test_resnet").train()
    with pytest.raises(UsageError):
        divide(network, "test_resnet", TWO, (64, 64), ("layer9",))
    assert all(module.training and not module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("sizes", "parts", "begins"),
    [
        ([1, 1, 1, 1], 2, (2,)),
        ([9, 1, 1], 2, (1,)),
        ([1, 2, 3, 4, 5], 3, (3, 4)),
        ([1, 1], 2, (1,)),
        ([5], 1, ()),
        ([3, 3, 3, 99, 3], 4, (1, 3, 4)),
    ],
)
def test_the_largest_part_is_as_small_as_can_be(sizes: list[int], parts: int, begins: tuple[int, ...]) -> None:
    assert balanced(sizes, parts).begins == begins
