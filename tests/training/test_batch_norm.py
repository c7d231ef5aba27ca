"""BatchNorm over all ranks equals BatchNorm over the whole batch, however that is divided."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.ranked import in_threads
from tlkit.distributed.world import World
from tlkit.training.batch_norm import LocalBatchNorm, SynchronizedBatchNorm


def passed(layer: nn.Module, inputs: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs, and the gradient of the inputs, of a loss that weighs each output."""
    inputs = inputs.clone().requires_grad_()
    outputs = layer(inputs)
    (outputs * towards).sum().backward()
    assert inputs.grad is not None
    return outputs.detach(), inputs.grad


def shares(counts: list[int]) -> list[slice]:
    ends = [sum(counts[: rank + 1]) for rank in range(len(counts))]
    return [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]


@pytest.mark.parametrize("counts", [[4, 4], [1, 6], [3, 2, 2], [5, 0, 1]], ids=str)
@pytest.mark.parametrize("shape", [(5, 4), ()], ids=["maps", "vectors"])
def test_it_equals_the_whole_batch(counts: list[int], shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs, towards = (torch.randn(sum(counts), 3, *shape, generator=generator).double() * 3 + 5 for _ in range(2))
    kind = nn.BatchNorm2d if shape else nn.BatchNorm1d
    whole = kind(3).double()
    with torch.no_grad():
        whole.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
        whole.bias.copy_(torch.tensor([0.1, 0.0, 3.0]))
    layers = [kind(3).double() for _ in counts]
    for layer in layers:
        layer.load_state_dict(whole.state_dict())
    expected, gradient = passed(whole, inputs, towards)

    def share(world: World) -> tuple[Tensor, Tensor]:
        mine = shares(counts)[world.rank]
        batch_norm = SynchronizedBatchNorm(world)
        batch_norm.counts = counts[world.rank] > 0
        with batch_norm:
            if batch_norm.counts:
                return passed(layers[world.rank], inputs[mine], towards[mine])
            outputs, gradient = passed(layers[world.rank], inputs[:1] + 100, torch.zeros_like(towards[:1]))
            return outputs[:0], gradient[:0]

    found = in_threads(len(counts), share)
    torch.testing.assert_close(torch.cat([outputs for outputs, _ in found]), expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(torch.cat([gradient for _, gradient in found]), gradient, rtol=1e-6, atol=1e-9)
    for layer in layers:
        torch.testing.assert_close(layer.running_mean, whole.running_mean, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(layer.running_var, whole.running_var, rtol=1e-6, atol=1e-9)
    for name in ("weight", "bias"):
        total = sum(getattr(layer, name).grad for layer in layers)
        torch.testing.assert_close(total, getattr(whole, name).grad, rtol=1e-6, atol=1e-9)


def test_what_does_not_train_is_left_alone() -> None:
    layer = nn.BatchNorm2d(3).eval()
    inputs = torch.randn(2, 3, 4, 4)

    def look(world: World) -> Tensor:
        with SynchronizedBatchNorm(world), torch.no_grad():
            result: Tensor = layer(inputs)
        return result

    assert all(torch.equal(found, layer(inputs)) for found in in_threads(2, look))
    assert layer.num_batches_tracked == 0 and torch.equal(layer.running_mean, torch.zeros(3))


def trained(layer: nn.BatchNorm1d) -> nn.BatchNorm1d:
    """A layer whose running statistics differ from those of the batches in the tests."""
    layer(torch.randn(20, 3, generator=torch.Generator().manual_seed(4)) * 5 + 2)  # threads share the global one
    return layer


def test_one_value_for_a_channel_takes_the_running_statistics() -> None:
    """Among all ranks: a filler beside one image makes one value, two images on two ranks make two."""

    def share(world: World) -> tuple[Tensor, Tensor, bool, Tensor]:
        layer, batch_norm = trained(nn.BatchNorm1d(3)), SynchronizedBatchNorm(world)
        batch_norm.counts = world.rank == 0
        with batch_norm:
            one = layer(torch.ones(1, 3))
        assert torch.equal(layer.running_mean, trained(nn.BatchNorm1d(3)).running_mean)
        met = batch_norm.met_one_value
        batch_norm.counts = True
        with batch_norm:
            two = layer(torch.full((1, 3), float(world.rank)))
        return one, trained(nn.BatchNorm1d(3)).eval()(torch.ones(1, 3)), met, two

    for one, expected, met, two in in_threads(2, share):
        torch.testing.assert_close(one, expected)
        assert met and two.abs().min() > 0.9


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (1, 3, 1, 1)])
def test_one_value_in_one_process_takes_the_running_statistics(shape: tuple[int, ...]) -> None:
    layer = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](3)
    layer(torch.randn(20, *shape[1:]) * 5 + 2)
    before = [buffer.clone() for buffer in layer.buffers()]
    inputs = torch.ones(shape, requires_grad=True)
    context = LocalBatchNorm(layer)
    with context:
        found = layer(inputs)
        found.sum().backward()
        assert layer.training and context.met_one_value
    assert inputs.grad is not None and inputs.grad.abs().min() > 0
    assert all(torch.equal(now, then) for now, then in zip(layer.buffers(), before, strict=True))
    torch.testing.assert_close(found, layer.eval()(inputs))
    with pytest.raises(ValueError, match="more than 1 value"):  # without the context, as torch does
        layer.train()(inputs)


def test_other_batches_are_as_torch_computes_them() -> None:
    layer, same = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    inputs = torch.randn(1, 3, 2, 2)
    with (context := LocalBatchNorm(layer)):
        assert torch.equal(layer(inputs), same(inputs)) and not context.met_one_value
    assert torch.equal(layer.running_var, same.running_var)


def test_an_error_inside_a_layer_leaves_it_in_training_mode() -> None:
    layer = nn.BatchNorm1d(3)
    with LocalBatchNorm(layer), pytest.raises(RuntimeError):
        layer(torch.ones(1, 4))
    assert layer.training
