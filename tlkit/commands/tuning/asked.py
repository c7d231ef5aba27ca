"""What Ray asks of a search, and what becomes of an error that it meets there. Loads no Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from tlkit.commands.tuning.trial import Assignment


class Search(Protocol):
    """What Ray's side needs of ours."""

    def next_assignment(self) -> Assignment | None:
        """The next trial; None if there is no other."""

    def past_reports(self) -> Mapping[int, list[dict[str, Any]]]:
        """What the trials of before reported, by their numbers, where the search goes on."""

    def hear(self, number: int, figures: Mapping[str, Any]) -> None:
        """A trial is at an epoch."""

    def halt(self, number: int) -> None:
        """A trial is to be stopped, as it has fallen behind."""

    def conclude(self, number: int, figures: Mapping[str, Any], error: str | None) -> None:
        """A trial is over; figures: what it reported last."""


class Asked:
    """A search that Ray asks. Its first error is kept: of what Ray meets inside, it makes a text, and goes on for a
    while."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self.error: Exception | None = None

    def next_assignment(self) -> Assignment | None:
        with self.noted():
            return self.search.next_assignment()

    def past_reports(self) -> Mapping[int, list[dict[str, Any]]]:
        with self.noted():
            return self.search.past_reports()

    def hear(self, number: int, figures: Mapping[str, Any]) -> None:
        with self.noted():
            self.search.hear(number, figures)

    def halt(self, number: int) -> None:
        with self.noted():
            self.search.halt(number)

    def conclude(self, number: int, figures: Mapping[str, Any], error: str | None) -> None:
        with self.noted():
            self.search.conclude(number, figures, error)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Whatever goes wrong inside is kept, if it is the first."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error
            raise

    @contextmanager
    def raising_its_own(self) -> Iterator[None]:
        """Where Ray gives up inside because of what it met in the search, that is raised as it was."""
        try:
            yield
        except Exception:
            self.raise_if_failed()
            raise

    def raise_if_failed(self) -> None:
        """Raises the first error, if there was one."""
        if self.error is not None:
            raise self.error
