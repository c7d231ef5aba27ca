"""The search as Ray Tune carries it out: it asks us for trials, and tells us what becomes of them.

Ray decides where a trial runs and, by ASHA, when it has run long enough. What there is to try, and what came out, is
ours alone, so nothing of Ray's state has to be kept or read back.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Protocol

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler
from ray.tune.search import Searcher

from tlkit.interruption import Interruption
from tlkit.tuning.trial import Assignment, train_trial

EPOCH, MERIT = "epoch", "merit"
"""What trials report: how far they are, and how good, larger being better."""


RETRIES = 2
"""A trial whose process died, as of a machine that went away, goes on elsewhere so many times."""


class Suggestions(Searcher):
    """Hands out trials; Ray numbers them in its own way."""

    def __init__(self, search: Search) -> None:
        super().__init__(metric=MERIT, mode="max")
        self.search = search

    def suggest(self, trial_id: str) -> Any:
        assignment = self.search.next_assignment()
        return Searcher.FINISHED if assignment is None else assignment.to_config()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the callback hears of it, and with the reason."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing of it has to be kept; Ray insists on a file."""
        with open(checkpoint_path, "wb"):
            pass

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError


class RememberingAsha(AsyncHyperBandScheduler):
    """ASHA that knows what was reported before the search was stopped."""

    def __init__(self, search: Search, **how: Any) -> None:
        super().__init__(time_attr=EPOCH, metric=MERIT, mode="max", stop_last_trials=False, **how)
        self.search = search
        self.past = dict(search.past_reports())

    def replay_ended(self, ended: set[int]) -> None:
        """Count the trials in that will not run again."""
        controller: Any = None  # ASHA asks nothing of it
        for number in ended:
            stand_in: Any = SimpleNamespace(trial_id=f"past-{number}")
            super().on_trial_add(controller, stand_in)
            for report in self.past.pop(number, []):
                super().on_trial_result(controller, stand_in, report)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        for report in self.past.pop(Assignment.from_config(trial.config).number, []):
            super().on_trial_result(tune_controller, trial, report)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == self.STOP:
            self.search.stop(number_of(trial))
        return decision


class Reports(tune.Callback):
    """Passes on what trials report, and lets a signal end the search between two of Ray's steps."""

    def __init__(self, search: ErrorKeepingSearch, signals: Interruption, redraw: Callable[[], None]) -> None:
        self.search = search
        self.signals = signals
        self.redraw = redraw
        self.at_interrupt = signal.getsignal(signal.SIGINT)

    def setup(self, *arguments: Any, **named: Any) -> None:
        signal.signal(signal.SIGINT, self.at_interrupt)  # Ray has just put its own in this place

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.search.raise_if_failed()
        self.signals.raise_if_requested()
        self.redraw()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.search.record_result(number_of(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.search.conclude(number_of(trial), trial.last_result or {}, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = f"its process died {RETRIES + 1} times, at last by: {last_error_line(trial)}"
        self.search.conclude(number_of(trial), {"passing": True}, error)


def number_of(trial: Any) -> int:
    return Assignment.from_config(trial.config).number


def last_error_line(trial: Any) -> str:
    """Of a process that died, or could not be started: the end of what Ray wrote down about it."""
    try:
        with open(trial.error_file, encoding="utf-8", errors="replace") as file:
            return [line.strip() for line in file if line.strip()][-1][:200]
    except (OSError, TypeError, IndexError):
        return "unknown"


def run_by_ray(
    search: Search,
    signals: Interruption,
    redraw: Callable[[], None],
    *,
    trials: int,
    scheduler: Any,
    resources: Mapping[str, float],
    scratch: str,
    seconds: float | None,
) -> None:
    """Have all trials carried out. Raises Interrupted."""
    asked = ErrorKeepingSearch(search)
    tuner = tune.Tuner(
        tune.with_resources(train_trial, dict(resources)),
        tune_config=tune.TuneConfig(
            search_alg=Suggestions(asked),
            scheduler=scheduler,
            num_samples=trials,
            time_budget_s=seconds,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"{number_of(trial):04d}",
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=scratch,
            verbose=0,
            callbacks=[Reports(asked, signals, redraw)],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            log_to_file=False,
        ),
    )
    with asked.raising_its_own():
        tuner.fit()
    asked.raise_if_failed()


def asha(search: Search, ended: set[int], *, longest: int, grace: int, reduction: int) -> Any:
    """The scheduler that stops what falls behind, knowing what was reported before."""
    scheduler = RememberingAsha(search, max_t=longest, grace_period=grace, reduction_factor=reduction)
    scheduler.replay_ended(ended)
    return scheduler


def no_scheduler() -> Any:
    """Every trial trains to its end."""
    return FIFOScheduler()  # type: ignore[no-untyped-call]


def halts(longest: int, grace: int, reduction: int) -> list[int]:
    """The epochs after which ASHA decides, as long as there is something left to stop: the only ones it hears of."""
    found, epoch = [], grace
    while epoch < longest:
        found.append(epoch)
        epoch *= reduction
    return found


class Search(Protocol):
    """What Ray's side needs of ours."""

    def next_assignment(self) -> Assignment | None:
        """The next trial; None if there is no other."""

    def past_reports(self) -> Mapping[int, list[dict[str, Any]]]:
        """What the trials of before reported, by their numbers, where the search goes on."""

    def record_result(self, number: int, figures: Mapping[str, Any]) -> None:
        """A trial is at an epoch."""

    def stop(self, number: int) -> None:
        """A trial is to be stopped, as it has fallen behind."""

    def conclude(self, number: int, figures: Mapping[str, Any], error: str | None) -> None:
        """A trial is over; figures: what it reported last."""


class ErrorKeepingSearch:
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

    def record_result(self, number: int, figures: Mapping[str, Any]) -> None:
        with self.noted():
            self.search.record_result(number, figures)

    def stop(self, number: int) -> None:
        with self.noted():
            self.search.stop(number)

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
