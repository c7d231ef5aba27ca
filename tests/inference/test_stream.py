"""Results in order: nothing lost or doubled, nothing held back by what is slow, never far ahead."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from itertools import chain, count

import pytest

from tlkit.inference import stream as stream_module
from tlkit.inference.stream import stream


def flat(batches: Iterator[list[int]]) -> list[int]:
    return list(chain.from_iterable(batches))


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_every_result_once_and_in_order(workers: int, size: int) -> None:
    def function(item: int) -> int:
        if item % 50 == 0:
            time.sleep(random.random() / 1000)
        return -item

    batches = list(stream(function, iter(range(1000)), workers, size))
    assert flat(iter(batches)) == [-item for item in range(1000)]
    assert max(map(len, batches)) <= size


def test_no_items_no_results() -> None:
    assert flat(stream(abs, iter([]), 2, 4)) == []


def test_what_is_ready_does_not_wait_for_a_slow_result_behind_it() -> None:
    release = threading.Event()
    results = stream(lambda item: item if item < 2 else release.wait(30) * item, iter([0, 1, 2, 3]), 3, 16)
    assert next(results) == [0, 1]
    release.set()
    assert flat(results) == [2, 3]


def test_what_is_ready_does_not_wait_for_a_slow_item_behind_it() -> None:
    release = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        yield 1
        release.wait(30)
        yield 2

    results = stream(abs, items(), 2, 16)
    assert next(results) == [0, 1]
    release.set()
    assert flat(results) == [2]


def test_what_keeps_coming_does_not_fill_a_batch_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "IDLE_SECONDS", 10.0)  # so that only the longest wait can end a batch

    def items() -> Iterator[int]:
        for item in range(30):
            time.sleep(0.03)
            yield item

    batches = [batch for batch in stream(abs, items(), 1, 1000) if batch]
    assert flat(iter(batches)) == list(range(30))
    assert len(batches) > 1


def test_an_empty_list_tells_that_nothing_comes() -> None:
    release = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        release.wait(30)
        yield 1

    results = stream(abs, items(), 2, 16)
    assert next(results) == [0]
    assert next(results) == []
    release.set()
    assert flat(results) == [1]


@pytest.mark.parametrize(("workers", "size", "ahead"), [(1, 1, 2), (3, 8, 16), (8, 1, 16)])
def test_never_far_ahead(workers: int, size: int, ahead: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in count(1):
            taken = item
            yield item

    results = stream(abs, items(), workers, size)
    given = 0
    for batch in results:
        given += len(batch)
        time.sleep(0.005)
        assert taken <= given + ahead
        if given > 100:
            break
    assert given + ahead == taken or given + ahead - 1 == taken  # it does look ahead
    results.close()  # type: ignore[attr-defined]
    time.sleep(0.05)
    stopped = taken
    time.sleep(0.05)
    assert taken == stopped, "goes on although nobody collects"


@pytest.mark.parametrize("workers", [1, 4])
def test_an_exception_comes_in_its_place(workers: int) -> None:
    def function(item: int) -> int:
        return 60 // (item - 5)

    found: list[int] = []
    with pytest.raises(ZeroDivisionError):
        for batch in stream(function, iter(range(20)), workers, 4):
            found += batch
    assert found == [60 // (item - 5) for item in range(5)]


@pytest.mark.parametrize("workers", [1, 4])
def test_an_exception_of_the_items_comes_after_those_before_it(workers: int) -> None:
    def items() -> Iterator[int]:
        yield from range(10)
        raise OSError("the list cannot be read")

    found: list[int] = []
    with pytest.raises(OSError, match="the list"):
        for batch in stream(abs, items(), workers, 4):
            found += batch
    assert found == list(range(10))


def test_threads_end_with_the_items() -> None:
    before = threading.active_count()
    assert len(flat(stream(abs, iter(range(100)), 4, 8))) == 100
    for _ in range(200):
        if threading.active_count() <= before:  # those of the test before this one may end meanwhile
            return
        time.sleep(0.01)
    raise AssertionError("a thread is left")


@pytest.mark.parametrize("workers", [1, 4])
def test_full_lists_do_not_depend_on_time(workers: int) -> None:
    def items() -> Iterator[int]:
        for item in range(10):
            time.sleep(0.06 * (item % 3))
            yield item

    batches = stream(lambda item: time.sleep(0.06 * (item % 2)) or item, items(), workers, 4, full=True)
    assert [batch for batch in batches if batch] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
