"""Optimizers, parameter groups, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from tlkit.options import FinetuneOptions

Schedule = Callable[[float], float]


# A schedule maps the progress of the run, 0 to 1, to a factor of the peak learning rate.
SCHEDULES: dict[str, Schedule] = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
    "step": lambda done: 0.1 ** math.floor(3 * done),
}

UNFROZEN_SCALE = 0.01
"""Learning rate of unfrozen backbone layers, as a share of the head's: pretrained weights need small steps."""

Groups = Iterable[dict[str, object]]


def adamw(groups: Groups, options: FinetuneOptions) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.0, fused=True)  # one pass over memory, also on CPUs


def sgd(groups: Groups, options: FinetuneOptions) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True)


OPTIMIZERS: dict[str, Callable[[Groups, FinetuneOptions], torch.optim.Optimizer]] = {"adamw": adamw, "sgd": sgd}
"""By the name that --optimizer has, from parameter groups and the options."""


def build_scaler(fp16: bool, device: torch.device) -> torch.amp.GradScaler:
    """The gradient scaler for training in fp16; in other precisions it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=fp16)


def learning_rate_at(step: int, steps_per_epoch: int, options: FinetuneOptions) -> float:
    """The learning rate of a step, counted from 0. It has no state, so resume needs none."""
    progress = min(step / max(options.planned_epochs() * steps_per_epoch, 1), 1.0)
    return options.learning_rate * SCHEDULES[options.schedule](progress)


def build_optimizer(head: nn.Module, backbone: nn.Module, options: FinetuneOptions) -> torch.optim.Optimizer:
    """An optimizer over the parameters that require gradients; biases and norms (one axis) have no weight decay.

    Every step sets the learning rate to learning_rate_at, times the "scale" of the group.
    """
    groups: list[dict[str, object]] = []
    for module, scale in ((head, 1.0), (backbone, UNFROZEN_SCALE)):
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        decayed, plain = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
        groups += [
            {"params": decayed, "weight_decay": options.weight_decay, "scale": scale},
            {"params": plain, "weight_decay": 0.0, "scale": scale},
        ]
    return OPTIMIZERS[options.optimizer]([group for group in groups if group["params"]], options)
