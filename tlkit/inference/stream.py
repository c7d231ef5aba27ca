"""Results in the order of their items, while items still come: computed by threads, ahead, but never far.

For pipelines, where somebody waits for what is ready. Items that are all there take data/in_order.py, which is simpler.
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
"""How long what is there waits for a next result."""


LONGEST_WAIT = 0.15
"""How long it waits in all, where results keep coming."""


LOOK_UP_SECONDS = 0.5
"""How long nothing at all may come until an empty list is given."""


class Raised:
    """An exception in the place of a result."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def stream(
    function: Callable[[Item], Result], items: Iterator[Item], workers: int, size: int
) -> Iterator[list[Result]]:
    """The results of function over items, in their order, up to `size` together as soon as they can be given.

    What is there does not wait long for what is slow to come, be it the item or its result. Lists may be empty: then
    nothing has come for a while, and one can look who still waits for results. Threads take items one by one, some way
    ahead. An exception is raised in its item's place.
    """
    line = OrderedQueue(function, items, ahead=2 * max(size, workers))
    for _ in range(max(workers, 1)):
        threading.Thread(target=line.worker_loop, daemon=True).start()
    try:
        while not line.is_over():
            yield line.collect(size)
    finally:
        line.close()


class OrderedQueue(Generic[Item, Result]):
    """Places in the order of items. Threads that `work` take items and fill their places; one thread collects."""

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
        """Take items and fill their places, as long as there are some."""
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
        """The next item and its place, as soon as there is room for it; None if no item follows."""
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
        """No item follows, or an error does."""
        with self.guard:
            self.slots.extend(last)
            self.ended = True
            self.front.notify()

    def close(self) -> None:
        """Nobody collects any more, so no thread takes another item."""
        with self.guard:
            self.ended = True
            self.room.notify()

    def is_over(self) -> bool:
        """Whether every result has been collected."""
        with self.guard:
            return self.ended and not self.slots

    def collect(self, size: int) -> list[Result]:
        """The next results, at most `size`: those that come without long waits, none if none does for a while."""
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
                    wait = min(IDLE_SECONDS, latest - time.monotonic()) if found else LOOK_UP_SECONDS
                    if wait <= 0 or not self.front.wait(wait):
                        break
        return found
