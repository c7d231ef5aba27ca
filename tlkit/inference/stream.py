"""An ordered parallel map for items that still arrive, computed by threads with bounded look-ahead.

For pipelines, where somebody waits for what is ready. Items that are all there take data/ordered_map.py.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

IDLE_SECONDS = 0.05
"""Seconds that available results wait for the next one."""

LONGEST_WAIT = 0.15
"""Seconds that available results wait at most while more keep arriving."""

LOOK_UP_SECONDS = 0.5
"""Seconds without any result after which an empty list is yielded."""


class Raised:
    """An exception instead of a result."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def stream(
    function: Callable[[Item], Result], items: Iterator[Item], workers: int, size: int, full: bool = False
) -> Iterator[list[Result]]:
    """Yield the results of function over items, in order, in lists of up to `size` as soon as they are available.

    Available results do not wait long for slow items or slow results; with `full` they wait until a list has `size`
    results, so that the lists do not depend on time. An empty list means that no result arrived for a
    while, so that the caller can check whether its consumer still exists. Threads take items one by one, with bounded
    look-ahead. An exception is raised at the position of its item.
    """
    line = OrderedQueue(function, items, ahead=2 * max(size, workers))
    for _ in range(max(workers, 1)):
        threading.Thread(target=line.worker_loop, daemon=True).start()
    try:
        while not line.is_over():
            yield line.collect(size, full)
    finally:
        line.close()


class OrderedQueue(Generic[Item, Result]):
    """Slots in the order of items. Worker threads take items and fill their slots; one thread collects results."""

    def __init__(self, function: Callable[[Item], Result], items: Iterator[Item], ahead: int) -> None:
        self.function = function
        self.items = items
        self.ahead = ahead
        self.ended = False
        self.slots: deque[list[Result | Raised]] = deque()  # each empty until its result is there
        self.taking = threading.Lock()  # held by the one thread that waits for the next item
        self.guard = threading.Lock()  # for the places
        self.room = threading.Condition(self.guard)
        self.front = threading.Condition(self.guard)

    def worker_loop(self) -> None:
        """Take items and fill their slots until none are left."""
        while (taken := self.take_item()) is not None:
            item, place = taken
            try:
                result: Result | Raised = self.function(item)
            except BaseException as error:
                result = Raised(error)
            with self.guard:
                place.append(result)
                if self.slots and self.slots[0] is place:
                    self.front.notify()

    def take_item(self) -> tuple[Item, list[Result | Raised]] | None:
        """The next item and its slot, as soon as there is room; None at the end."""
        with self.taking:
            with self.guard:
                while len(self.slots) >= self.ahead and not self.ended:
                    self.room.wait()
            if self.ended:
                return None
            try:
                item = next(self.items)
            except StopIteration:
                self.end()
                return None
            except BaseException as error:
                self.end([Raised(error)])
                return None
            place: list[Result | Raised] = []
            with self.guard:
                self.slots.append(place)
        return item, place

    def end(self, *last: list[Result | Raised]) -> None:
        """Mark the end of the items, or an error."""
        with self.guard:
            self.slots.extend(last)
            self.ended = True
            self.front.notify()

    def close(self) -> None:
        """Stop the threads: results are not collected any more."""
        with self.guard:
            self.ended = True
            self.room.notify()

    def is_over(self) -> bool:
        """Whether every result has been collected."""
        with self.guard:
            return self.ended and not self.slots

    def collect(self, size: int, full: bool) -> list[Result]:
        """The next results, at most `size`, without long waits unless `full`; empty if none arrived for a while."""
        found: list[Result] = []
        latest = 0.0
        with self.guard:
            while len(found) < size and (self.slots or not self.ended):
                if self.slots and self.slots[0]:
                    if isinstance(result := self.slots[0][0], Raised):
                        if found:
                            break
                        raise result.error
                    found.append(result)
                    self.slots.popleft()
                    self.room.notify()
                    latest = latest or time.monotonic() + LONGEST_WAIT
                else:
                    wait = min(IDLE_SECONDS, latest - time.monotonic()) if found and not full else LOOK_UP_SECONDS
                    if (wait <= 0 or not self.front.wait(wait)) and not (found and full):
                        break
        return found
