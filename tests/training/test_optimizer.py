"""The learning rate is a function of the step; what is decayed, and how fast each part learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tlkit.options import FinetuneOptions
from tlkit.training.optimizer import OPTIMIZERS, SCHEDULES, UNFROZEN_SCALE, build_optimizer, learning_rate_at


def test_every_schedule_and_optimizer_can_be_chosen() -> None:
    for schedule in SCHEDULES:
        FinetuneOptions(data="d", schedule=schedule)  # type: ignore[arg-type]
    for optimizer in OPTIMIZERS:
        FinetuneOptions(data="d", optimizer=optimizer)  # type: ignore[arg-type]


def rate(step: int, steps: int, peak: float, schedule: str) -> float:
    """The learning rate of a run of two epochs."""
    options = FinetuneOptions(data="", epochs=2, learning_rate=peak, schedule=schedule)  # type: ignore[arg-type]
    return learning_rate_at(step, steps // 2, options)


def options_of(optimizer: str, weight_decay: float) -> FinetuneOptions:
    return FinetuneOptions(data="", optimizer=optimizer, weight_decay=weight_decay)  # type: ignore[arg-type]


def test_learning_rates_by_hand() -> None:
    assert rate(0, 100, 0.5, "cosine") == 0.5
    assert rate(50, 100, 0.5, "cosine") == pytest.approx(0.25)
    assert rate(99, 100, 0.5, "cosine") == pytest.approx(0.25 * (1 + math.cos(0.99 * math.pi)))
    assert rate(100, 100, 0.5, "cosine") == 0.0
    assert rate(150, 100, 0.5, "cosine") == 0.0
    assert {rate(step, 90, 0.5, "constant") for step in range(90)} == {0.5}
    assert [rate(step, 90, 1.0, "step") for step in (0, 29, 30, 59, 60, 89)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_are_decayed_and_biases_are_not(name: str) -> None:
    head, backbone = nn.Linear(3, 2), nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    backbone[0].requires_grad_(False)
    groups = build_optimizer(head, backbone, options_of(name, 0.1)).param_groups
    found = {id(p): (group["weight_decay"], group["scale"]) for group in groups for p in group["params"]}
    assert found == {
        id(head.weight): (0.1, 1.0),
        id(head.bias): (0.0, 1.0),
        id(backbone[2].weight): (0.1, UNFROZEN_SCALE),
        id(backbone[2].bias): (0.0, UNFROZEN_SCALE),
        id(backbone[1].weight): (0.0, UNFROZEN_SCALE),
        id(backbone[1].bias): (0.0, UNFROZEN_SCALE),
    }


def test_a_frozen_backbone_leaves_no_empty_groups() -> None:
    backbone = nn.Linear(2, 2).requires_grad_(False)
    assert len(build_optimizer(nn.Linear(2, 2), backbone, options_of("adamw", 0.0)).param_groups) == 2
    assert torch.optim.AdamW is type(build_optimizer(nn.Linear(2, 2), backbone, options_of("adamw", 0.0)))
