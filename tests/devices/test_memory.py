"""What is done with less memory than was asked for, where nothing trains."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from tlkit.devices.memory import ChunkedForward, OutOfMemoryGuard


def scarce(most: int, seen: list[int]) -> ChunkedForward:
    def function(rows: Tensor) -> Tensor:
        seen.append(len(rows))
        if len(rows) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return rows * 2

    return ChunkedForward(function)


def test_parts_are_halved_until_they_fit_and_stay_so() -> None:
    seen: list[int] = []
    function = scarce(3, seen)
    rows = torch.arange(20.0).reshape(10, 2)
    assert torch.equal(function(rows), rows * 2)
    assert seen == [10, 5, 3, 3, 3, 1]
    seen.clear()
    assert torch.equal(function(rows[:5]), rows[:5] * 2) and torch.equal(function(rows[:2]), rows[:2] * 2)
    assert seen == [3, 2, 2]


def test_nothing_is_divided_without_need() -> None:
    seen: list[int] = []
    assert len(scarce(99, seen)(torch.zeros(10, 2))) == 10
    assert seen == [10]


def test_who_wants_to_know_is_told_once() -> None:
    seen: list[int] = []
    function, sizes = scarce(2, seen), list[int]()
    function.on_new_size = sizes.append
    function(torch.zeros(8, 1))
    function(torch.zeros(8, 1))
    assert sizes == [2]


def test_one_row_that_is_too_much_is_an_error() -> None:
    with pytest.raises(MemoryError, match="CUDA out of memory"):
        scarce(0, [])(torch.zeros(4, 1))


def test_other_errors_pass() -> None:
    shortage = OutOfMemoryGuard()
    with pytest.raises(KeyError), shortage:
        raise KeyError("no")
    assert not shortage.found


def test_what_the_block_had_is_free_at_once() -> None:
    """Without the garbage collector: the error is not kept, which would hold the block."""

    class Held:
        pass

    def use_up() -> None:
        held = Held()
        held_before.append(weakref.ref(held))
        raise MemoryError

    held_before: list[weakref.ref[Held]] = []
    gc.disable()
    try:
        shortage = OutOfMemoryGuard()
        with shortage:
            use_up()
        assert shortage.found and held_before[0]() is None
    finally:
        gc.enable()
