"""The loop: one step by hand, dropout as a function of the step, and what it refuses."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tlkit.data.batches import FeatureBatches
from tlkit.errors import DataError
from tlkit.options import FinetuneOptions
from tlkit.training.history import EpochRow
from tlkit.training.loop import Trainer, TrainingObserver, is_over
from tlkit.training.optimizer import build_optimizer
from tlkit.training.state import TrainingState

OPTIONS = FinetuneOptions(
    data="", epochs=1, learning_rate=0.5, schedule="constant", weight_decay=0.0, metric="loss", seed=3
)
CPU = torch.device("cpu")


class Model(nn.Sequential):
    """Any module, with the two methods a checkpoint needs."""

    def trainable_state(self) -> dict[str, Tensor]:
        return self.state_dict()

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        self.load_state_dict(state)


def start(model: Model, optimizer: str = "sgd") -> TrainingState:
    return TrainingState(model, build_optimizer(model, nn.Module(), replace(OPTIONS, optimizer=optimizer)))


def vectors(count: int = 10) -> FeatureBatches:
    generator = torch.Generator().manual_seed(0)
    return FeatureBatches(
        [torch.randn(count, 2, generator=generator)], torch.randint(0, 2, (count,), generator=generator), 4, 5
    )


def test_one_step_by_hand() -> None:
    model = Model(nn.Linear(2, 2, bias=False))
    nn.init.zeros_(model[0].weight)
    data = FeatureBatches([torch.tensor([[1.0, 2.0]])], torch.tensor([1]), 1, None)
    weights = torch.tensor([1.0, 3.0])
    Trainer(model, start(model), data, data, OPTIONS, weights, CPU).train()
    # d loss / d logits = 3 (softmax - onehot) = [1.5, -1.5]; Nesterov's first step with momentum 0.9 is 1.9 gradients.
    step = 0.5 * 1.9 * 1.5
    torch.testing.assert_close(model[0].weight, torch.tensor([[-step, -2 * step], [step, 2 * step]]))


def test_the_state_counts_and_the_best_epoch_is_kept() -> None:
    model = Model(nn.Linear(2, 2))
    state = start(model, "adamw")
    seen: list[tuple[int, int, bool]] = []
    options = replace(OPTIONS, epochs=4)

    class Look(TrainingObserver):
        def after_epoch(self, state: TrainingState, is_best: bool) -> None:
            seen.append((state.epoch, state.step, is_best))

    Trainer(model, state, vectors(), vectors(), options, torch.ones(2), CPU).train([Look()])
    assert [entry[:2] for entry in seen] == [(1, 3), (2, 6), (3, 9), (4, 12)]
    losses = [row.val["loss"] for row in state.history]
    assert state.best is not None and state.best.val["loss"] == min(losses)
    assert [best for *_, best in seen] == [loss == min(losses[: n + 1]) for n, loss in enumerate(losses)]


def test_dropout_depends_on_the_step_and_not_on_what_was_drawn_before() -> None:
    results = []
    for noise in (0, 100):
        torch.manual_seed(1)
        model = Model(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        torch.rand(noise)
        Trainer(model, start(model), vectors(), vectors(), OPTIONS, torch.ones(2), CPU).train()
        results.append(model.state_dict())
    for name, tensor in results[0].items():
        assert torch.equal(tensor, results[1][name])


def test_a_state_goes_on_where_it_stood() -> None:
    options = replace(OPTIONS, epochs=5, schedule="cosine")
    torch.manual_seed(2)
    whole = Model(nn.Linear(2, 2))
    kept: list[dict[str, object]] = []

    class Keep(TrainingObserver):
        def after_epoch(self, state: TrainingState, is_best: bool) -> None:
            if state.epoch == 2:
                kept.append(copy.deepcopy(state.to_dict()))

    Trainer(whole, start(whole, "adamw"), vectors(), vectors(), options, torch.ones(2), CPU).train([Keep()])
    again = Model(nn.Linear(2, 2))
    state = start(again, "adamw")
    state.load(kept[0])
    Trainer(again, state, vectors(), vectors(), options, torch.ones(2), CPU).train()
    assert torch.equal(whole[0].weight, again[0].weight)
    assert state.step == 15 and [row.epoch for row in state.history] == [1, 2, 3, 4, 5]


def test_a_loss_that_is_no_number_stops_at_once() -> None:
    model = Model(nn.Linear(2, 2))
    data = FeatureBatches([torch.full((4, 2), float("nan"))], torch.zeros(4, dtype=torch.int64), 2, None)
    state = start(model)
    before = model[0].weight.clone()
    with pytest.raises(DataError) as caught:
        Trainer(model, state, data, data, OPTIONS, torch.ones(2), CPU).train()
    assert caught.value.exit_code == 65 and "step 1" in str(caught.value) and "0.5" in str(caught.value)
    assert torch.equal(before, model[0].weight) and state.step == 0


def row(epoch: int) -> EpochRow:
    return EpochRow(epoch, epoch, 0.1, {"loss": 1.0, "accuracy": 0.5}, {"loss": 1.0}, 0.1)


def test_is_over() -> None:
    five, patient = replace(OPTIONS, epochs=5), replace(OPTIONS, epochs=9, patience=2)
    assert is_over(5, row(5), five) and not is_over(4, row(1), five)
    assert is_over(4, row(2), patient) and not is_over(3, row(2), patient)
    assert not is_over(4, None, patient), "patience counts from a best epoch that is there"


def test_after_each_step_the_state_is_whole() -> None:
    seen: list[tuple[int, int, int, int]] = []

    class Look(TrainingObserver):
        def after_step(self, state: TrainingState) -> None:
            assert state.tally is not None
            seen.append((state.epoch, state.step, state.step_in_epoch, state.tally.samples))

    model = Model(nn.Linear(2, 2))
    options = replace(OPTIONS, epochs=2)
    data = vectors()
    Trainer(model, start(model), data, data, options, torch.ones(2), CPU).train([Look()])
    assert seen == [(0, 1, 1, 4), (0, 2, 2, 8), (0, 3, 3, 10), (1, 4, 1, 4), (1, 5, 2, 8), (1, 6, 3, 10)]


def test_what_the_optimizer_keeps_must_be_numbers_too() -> None:
    model = Model(nn.Linear(2, 2))
    state = start(model, "adamw")
    assert state.is_finite()
    model(torch.ones(1, 2)).sum().backward()
    state.optimizer.step()
    assert state.is_finite()
    state.optimizer.state[model[0].weight]["exp_avg_sq"][0, 0] = float("inf")
    assert not state.is_finite()


@pytest.mark.parametrize("name", ["epoch", "val_loss", "val_accuracy", "val_macro_f1"])
def test_a_row_without_a_headline_metric_is_refused(name: str) -> None:
    values = {"epoch": 1, "val_loss": 1.0, "val_accuracy": 0.5, "val_macro_f1": 0.5}
    assert EpochRow.from_dict(values).val == {"loss": 1.0, "accuracy": 0.5, "macro_f1": 0.5}
    for wrong in ({**values, name: "1"}, {**values, name: True}, {n: v for n, v in values.items() if n != name}):
        with pytest.raises(ValueError, match=f"{name} is missing or not"):
            EpochRow.from_dict(wrong)


class Pooled(nn.Module):
    """[B, F] -> [B, F], with a BatchNorm that has one value per channel for a batch of one."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.norm(inputs)
        return found


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_last_batch_of_one_image_is_trained_on_and_resumed_exactly(steps: int) -> None:
    """Five samples in batches of four. Stopped after one step, before and after the batch of one."""
    options, data = replace(OPTIONS, epochs=3), vectors(5)

    class Stop(TrainingObserver):
        def after_step(self, state: TrainingState) -> None:
            if state.step == steps:
                kept.append(copy.deepcopy(state.to_dict()))

    def network() -> Model:
        torch.manual_seed(2)
        return Model(Pooled(), nn.Linear(2, 2))

    kept: list[dict[str, object]] = []
    whole = network()
    state = start(whole)
    Trainer(whole, state, data, data, options, torch.ones(2), CPU).train([Stop()])
    assert state.step == 6 and state.met_one_value
    again = network()
    resumed = start(again)
    resumed.load(kept[0])
    Trainer(again, resumed, data, data, options, torch.ones(2), CPU).train()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
