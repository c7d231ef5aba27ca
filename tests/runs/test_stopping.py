"""A signal that ranks hear of together, at the same step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tlkit.distributed.world import World
from tlkit.interruption import Interrupted, Interruption
from tlkit.runs.batches import Stoppable


class Three:
    """So many batches in each epoch."""

    steps_per_epoch = 3

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor, int]]:
        for number in range(first_step, 3):
            yield torch.zeros(1), torch.zeros(1), number


class Signalled(World):
    """A rank to which a signal comes while it waits for what the others have heard, which is nothing."""

    def __init__(self, signals: Interruption) -> None:
        self.signals = signals

    def all_reduce_max(self, number: int) -> int:
        self.signals.requested = self.signals.requested or signal.SIGTERM
        return number


def test_a_signal_that_comes_while_ranks_ask_each_other_is_heard_at_the_next_step() -> None:
    signals = Interruption()
    taken: list[Any] = []
    with pytest.raises(Interrupted) as stop:
        for batch in Stoppable(Three(), signals, Signalled(signals)).epoch(0):
            taken.append(batch)
    assert stop.value.number == signal.SIGTERM and len(taken) == 1
