"""A step in parts: the same gradients, the same statistics as far as they can be, and what happens without memory."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.ranked import in_threads
from tests.training.test_loop import Model, start
from tlkit.devices.memory import OutOfMemoryGuard
from tlkit.distributed.world import World
from tlkit.errors import LostRankError
from tlkit.options import FinetuneOptions
from tlkit.training.state import TrainingState
from tlkit.training.step import Stepper

CPU = torch.device("cpu")
MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def network() -> Model:
    torch.manual_seed(0)
    return Model(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def batch(count: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 4, generator=generator), torch.randint(0, 3, (count,), generator=generator)


def stepper(model: Model, micro_batch: int | None = None, weights: tuple[float, ...] = (1.0, 2.0, 3.0)) -> Stepper:
    state = start(model)
    state.micro_batch = micro_batch
    return Stepper(model, state, torch.tensor(weights), FinetuneOptions(data="", label_smoothing=0.1, seed=7), CPU)


class Scarce(nn.Module):
    """Has memory for so many samples; `fails` says when, given the number of passes so far, it has none at all."""

    def __init__(self, most: int, when: Callable[[int], bool] = lambda passes: True, backward: bool = False) -> None:
        super().__init__()
        self.most, self.when, self.passes = most, when, 0
        self.inside = backward
        self.seen: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes += 1
        self.seen.append(len(inputs))
        if len(inputs) > self.most and self.when(self.passes):
            if not self.inside:
                raise MEMORY
            inputs.register_hook(self.fail)
        return inputs

    def fail(self, gradient: Tensor) -> None:
        raise MEMORY


def gradients(model: Model) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 5, 9, 10, 99])
def test_parts_add_up_to_the_batch(micro_batch: int) -> None:
    inputs, labels = batch()
    whole, divided = network(), network()
    expected = stepper(whole).gradients(inputs, labels, len(labels), 0)
    found = stepper(divided, micro_batch).gradients(inputs, labels, len(labels), 0)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-6)
    assert found[1] == pytest.approx(expected[1], abs=1e-6)
    for one, other in zip(gradients(divided), gradients(whole), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_parts_are_as_even_as_can_be() -> None:
    model = Model(scarce := Scarce(99), *network())
    stepper(model, micro_batch=5).gradients(*batch(11), 11, 0)
    assert scarce.seen == [4, 4, 3], "one of a single sample would have no variance for BatchNorm"


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_without_memory_the_batch_is_halved_until_it_fits(backward: bool) -> None:
    inputs, labels = batch(16)
    model = Model(nn.Linear(4, 4), scarce := Scarce(4, backward=backward), *network())
    small = Model(copy.deepcopy(model[0]), *network())
    scarcely, expected = stepper(model), stepper(small, 4).gradients(inputs, labels, 16, 3)
    found = scarcely.gradients(inputs, labels, 16, 3)
    assert scarcely.state.micro_batch == 4
    assert torch.equal(found[0], expected[0]) and found[1] == expected[1]
    for one, other in zip(gradients(model), gradients(small), strict=True):
        assert torch.equal(one, other)
    scarce.seen.clear()
    scarcely.gradients(inputs, labels, 16, 4)
    assert scarce.seen == [4, 4, 4, 4], "later steps know"


def test_statistics_count_each_sample_once_however_often_a_step_is_tried() -> None:
    inputs, labels = batch(16)
    model = Model(nn.BatchNorm1d(4), nn.Linear(4, 4), Scarce(4), *network()).train()
    small = copy.deepcopy(model)
    small[2].most = 99
    stepper(model).gradients(inputs, labels, 16, 0)
    stepper(small, 4).gradients(inputs, labels, 16, 0)
    for key, value in small[0].state_dict().items():
        assert torch.equal(model[0].state_dict()[key], value), key
    assert model[0].num_batches_tracked == 4


def test_dropout_is_drawn_again_when_a_step_is_tried_again() -> None:
    inputs, labels = batch(16)
    scarce = Scarce(4, when=lambda passes: passes == 2)  # a part has passed when memory is short
    model = Model(nn.Dropout(0.5), nn.Linear(4, 4), nn.Dropout(0.5), scarce, *network()).train()
    tried_again = stepper(model, 8).gradients(inputs, labels, 16, 5)
    assert scarce.seen == [8, 8, 4, 4, 4, 4]
    at_once = stepper(model, 4).gradients(inputs, labels, 16, 5)
    assert torch.equal(tried_again[0], at_once[0])
    assert not torch.equal(stepper(model, 4).gradients(inputs, labels, 16, 6)[0], at_once[0])


def test_one_sample_that_is_too_much_is_an_error() -> None:
    model = Model(nn.Linear(4, 4), Scarce(0), *network())
    with pytest.raises(MemoryError, match="CUDA out of memory"):
        stepper(model).gradients(*batch(8), 8, 0)


def test_other_errors_are_not_taken_for_a_shortage() -> None:
    class Broken(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        stepper(Model(Broken(), *network())).gradients(*batch(), 10, 0)


@pytest.fixture
def forgetful() -> Iterator[None]:
    """What was there before the test is left out when tensors are counted."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("forgetful")
def test_a_shortage_holds_no_tensor() -> None:
    shortage = OutOfMemoryGuard()
    with shortage:
        kept = torch.zeros(3).requires_grad_() * 2
        raise MEMORY
    del kept
    MEMORY.__traceback__ = None
    gc.collect()
    assert shortage.found and "2.00 GiB" in shortage.text
    assert not [t for t in live_tensors() if t.grad_fn is not None]


@pytest.mark.usefixtures("forgetful")
def test_no_tensor_is_kept_over_steps() -> None:
    model = Model(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), *network()).train()
    moving, counts = stepper(model, 4), []
    for step in range(12):
        logits, _ = moving.gradients(*batch(), 10, step)
        moving.update(0.01)
        assert not logits.requires_grad
        del logits
        gc.collect()
        counts.append(len(live_tensors()))
        assert not [tensor for tensor in live_tensors() if tensor.grad_fn is not None]
    assert len(set(counts[1:])) == 1, "the first step makes what the optimizer keeps"


def live_tensors() -> list[Tensor]:
    return [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]


class TwoRanks:
    """A world of which the other rank says what the test wants."""

    rank, size = 0, 2

    def __init__(self, other: Callable[[], float]) -> None:
        self.other = other

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        return tensor + self.other()


def test_all_ranks_make_their_parts_smaller_when_one_has_no_memory() -> None:
    answers = iter([1.0, 0.0, 0.0, 0.25])  # the other: short of memory, then not; its gradients; its loss
    model = network()
    other = stepper(model)
    other.world = TwoRanks(lambda: next(answers))
    inputs, labels = batch(8)
    _, loss = other.gradients(inputs, labels, 16, 0)
    assert other.state.micro_batch == 4
    alone = network()
    _, own = stepper(alone, 4).gradients(inputs, labels, 8, 0)
    assert loss == pytest.approx(own / 2 + 0.25)
    for one, two in zip(gradients(model), gradients(alone), strict=True):
        torch.testing.assert_close(one, two / 2)


def scaled(model: Model, scale: float) -> TrainingState:
    state = start(model)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
    return state


def test_a_scaled_step_moves_as_another_and_what_overflows_is_left_out() -> None:
    inputs, labels = batch()
    plain, model = network(), network()
    moving = stepper(plain)
    moving.gradients(inputs, labels, 10, 0)
    moving.update(0.1)
    state = scaled(model, 1024.0)
    moving = Stepper(
        model, state, torch.tensor([1.0, 2.0, 3.0]), FinetuneOptions(data="", label_smoothing=0.1, seed=7), CPU
    )
    moving.gradients(inputs, labels, 10, 0)
    moving.update(0.1)
    for one, two in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-7)
    before = copy.deepcopy(model.state_dict())
    moving.gradients(inputs, labels, 10, 1)
    model[0].weight.grad[0, 0] = float("inf")
    moving.update(0.1)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert state.scaler.get_scale() == 512.0


def test_the_scale_goes_on_where_it_stood() -> None:
    model = network()
    state = scaled(model, 1024.0)
    moving = Stepper(model, state, torch.ones(3), FinetuneOptions(data="", label_smoothing=0.0, seed=7), CPU)
    for step in range(2):
        moving.gradients(*batch(), 10, step)
        moving.update(0.1)
    state.micro_batch = 5
    values = copy.deepcopy(state.to_dict())
    again = scaled(network(), 1.0)
    again.load(values)
    assert again.micro_batch == 5
    assert again.scaler.state_dict() == state.scaler.state_dict()
    assert again.scaler.state_dict()["_growth_tracker"] == 2


def test_a_checkpoint_of_another_precision_has_no_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, Any] = start(network()).to_dict()
    assert values["scaler_state_dict"] == {}
    del values["scaler_state_dict"], values["progress"]["micro_batch"]
    old = scaled(network(), 8.0)
    old.load(values)
    assert old.scaler.get_scale() == 8.0 and old.micro_batch is None


class ComputedAgain(nn.Module):
    """A layer that keeps no activations."""

    grad_checkpointing = True

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = torch.utils.checkpoint.checkpoint(self.inner, inputs, use_reentrant=False)
        return found


def test_layers_that_compute_twice_count_samples_once() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    plain, twice = Model(copy.deepcopy(inner), *network()).train(), Model(ComputedAgain(inner), *network()).train()
    for model in (plain, twice):
        stepper(model, 5).gradients(*batch(), 10, 2)
    for one, two in zip(gradients(twice), gradients(plain), strict=True):
        assert torch.equal(one, two)
    for one, two in zip(twice.buffers(), plain.buffers(), strict=True):
        assert torch.equal(one, two)


def test_of_ranks_the_one_that_has_no_memory_for_a_sample_says_so() -> None:
    inputs, labels = batch(2)

    def train(world: World) -> str:
        moving, mine = stepper(network()), slice(world.rank, world.rank + 1)
        moving.module, moving.world = Model(Scarce(0 if world.rank == 1 else 99), *network()), world
        with pytest.raises((MemoryError, LostRankError)) as caught:
            moving.gradients(inputs[mine], labels[mine], 2, 0)
        return caught.type.__name__

    assert in_threads(2, train) == ["LostRankError", "MemoryError"]
