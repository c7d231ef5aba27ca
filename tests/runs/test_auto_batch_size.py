"""How large a batch is tried, by one rank and by several."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.training.test_loop import Model
from tests.training.test_step import Scarce
from tlkit.devices.kinds import DEVICES
from tlkit.distributed.world import SINGLE_PROCESS, World
from tlkit.options import FinetuneOptions
from tlkit.runs.auto_batch_size import BatchSizeFinder, FakePeerWorld
from tlkit.training.batch_norm import LocalBatchNorm, SynchronizedBatchNorm

SGD = FinetuneOptions(data="", optimizer="sgd")


class Several(World):
    def __init__(self, size: int) -> None:
        self.size = size


@pytest.mark.parametrize(("ranks", "images", "found"), [(1, 999, 16), (2, 999, 16), (3, 999, 12), (2, 9, 8), (4, 3, 4)])
def test_ranks_together_try_no_more_than_one_process(
    ranks: int, images: int, found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BatchSizeFinder, "fits", lambda self, size: True)
    network = Model()
    attempts = BatchSizeFinder(network, network, SGD, False, (8, 8), torch.device("cpu"), Several(ranks))  # type: ignore[arg-type]
    assert attempts.find(images) == found
    assert found <= max(DEVICES["cpu"].largest_batch, ranks)


class Head(nn.Linear):
    def classes(self) -> int:
        return self.out_features


def attempts_of(layer: nn.Module, accumulate: int = 1, **about: Any) -> BatchSizeFinder:
    """A classifier of noise of 3 x 4 x 4, with this layer before its head."""
    module = Model(nn.Flatten(), layer, Head(48, 2))
    classifier: Any = SimpleNamespace(
        trainable_state=module.trainable_state,
        load_trainable_state=module.load_trainable_state,
        zero_grad=module.zero_grad,
        head=module[2],
        backbone=nn.Module(),
    )
    options = replace(SGD, accumulate=accumulate)
    return BatchSizeFinder(classifier, module, options, False, (4, 4), torch.device("cpu"), **about)


def test_what_is_tried_passes_in_as_many_parts_as_what_will_run() -> None:
    assert attempts_of(Scarce(4)).find(99) == 4
    assert attempts_of(scarce := Scarce(4), world=SINGLE_PROCESS, accumulate=4).find(99) == 16
    assert scarce.seen == [4, 4, 4, 4]


def test_what_is_tried_takes_statistics_as_what_will_run(monkeypatch: pytest.MonkeyPatch) -> None:
    normalized: list[int] = []
    normalize = SynchronizedBatchNorm.normalize

    def counted(self: SynchronizedBatchNorm, call: Any) -> torch.Tensor:
        normalized.append(len(call.input))
        return normalize(self, call)

    monkeypatch.setattr(SynchronizedBatchNorm, "normalize", counted)
    assert (
        attempts_of(nn.BatchNorm1d(48), batch_norm=LocalBatchNorm(nn.BatchNorm1d(48))).find(99) == 16
        and normalized == []
    )
    assert attempts_of(nn.BatchNorm1d(48), batch_norm=SynchronizedBatchNorm(FakePeerWorld())).find(99) == 16
    assert normalized == [16]
