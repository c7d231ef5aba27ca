"""BatchNorm over all ranks equals BatchNorm over the whole batch, however that is divided."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.ranked import in_threads
from tlkit.distributed.world import World
from tlkit.errors import DataError
from tlkit.training.batch_norm import SynchronizedBatchNorm


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


def test_one_value_for_a_channel_is_refused_as_by_torch() -> None:
    def share(world: World) -> Tensor:
        batch_norm = SynchronizedBatchNorm(world)
        batch_norm.counts = world.rank == 0
        with batch_norm, pytest.raises(DataError, match="one value per channel"):
            nn.BatchNorm1d(3)(torch.ones(1, 3))
        batch_norm.counts = True
        with batch_norm:
            found: Tensor = nn.BatchNorm1d(3)(torch.full((1, 3), float(world.rank)))
        return found

    assert torch.cat(in_threads(2, share)).isfinite().all()
