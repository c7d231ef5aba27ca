"""Adapter to Ray Tune: the only module that knows Ray's search, scheduler and callback interfaces.

Ray decides where a trial runs and, with ASHA, when to stop it. The state of the search is in state.py, so nothing of
Ray's own state has to be stored or restored. tests/tuning/test_ray.py checks the parts of Ray used here that are not
public.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from tlkit.interruption import Interruption
from tlkit.tuning.state import OngoingSearch
from tlkit.tuning.trial import EPOCH, OBJECTIVE, Assignment, Report, train_trial

RETRIES = 2
"""How often a trial is restarted after its process died, for example with its machine."""


class AssignmentSearcher(Searcher):
    """Gives the next assignment to Ray, which identifies trials by ids of its own."""

    def __init__(self, search: OngoingSearch) -> None:
        super().__init__(metric=OBJECTIVE, mode="max")
        self.search = search

    def suggest(self, trial_id: str) -> Any:
        assignment = self.search.next_assignment()
        return Searcher.FINISHED if assignment is None else assignment.to_config()

    def on_trial_complete(self, trial_id: str, result: Report | None = None, error: bool = False) -> None:
        """Do nothing: SearchCallback records the result."""

    def save(self, checkpoint_path: str) -> None:
        """Write the empty file that Ray requires."""
        with open(checkpoint_path, "wb"):
            pass


class ResumableAsha(AsyncHyperBandScheduler):
    """ASHA that also knows the reports of before the search was resumed."""

    def __init__(self, search: OngoingSearch, longest: int) -> None:
        """longest: epochs of the longest trial."""
        options = search.options
        super().__init__(
            time_attr=EPOCH,
            metric=OBJECTIVE,
            mode="max",
            max_t=longest,
            grace_period=options.grace(longest),
            reduction_factor=options.reduction_factor,
            stop_last_trials=False,
        )
        self.search = search
        self.past = search.past_reports()
        for number in [number for number, row in search.table.rows.items() if row.has_ended()]:
            stand_in: Any = SimpleNamespace(trial_id=f"past-{number}")
            super().on_trial_add(None, stand_in)  # type: ignore[arg-type]
            for report in self.past.pop(number, []):
                super().on_trial_result(None, stand_in, report)  # type: ignore[arg-type]

    def on_trial_add(self, tune_controller: TuneController, trial: RayTrial) -> None:
        super().on_trial_add(tune_controller, trial)
        for report in self.past.pop(trial_number(trial), []):
            super().on_trial_result(tune_controller, trial, report)

    def on_trial_result(self, tune_controller: TuneController, trial: RayTrial, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == self.STOP:
            self.search.stopped.add(trial_number(trial))
        return decision


class SearchCallback(tune.Callback):
    """Passes the reports of trials to the search, and lets a signal or an error end it between two of Ray's steps."""

    def __init__(self, search: OngoingSearch, signals: Interruption) -> None:
        self.search = search
        self.signals = signals
        self.sigint_handler = signal.getsignal(signal.SIGINT)

    def setup(self, *arguments: object, **named: object) -> None:
        signal.signal(signal.SIGINT, self.sigint_handler)  # Ray has just installed its own

    def on_step_begin(self, iteration: int, trials: list[RayTrial], **info: object) -> None:
        self.search.raise_if_failed()
        self.signals.raise_if_requested()
        self.search.display.redraw()

    def on_trial_result(
        self, iteration: int, trials: list[RayTrial], trial: RayTrial, result: dict[str, Any], **info: object
    ) -> None:
        self.search.record_report(trial_number(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: object) -> None:
        self.search.conclude(trial_number(trial), trial.last_result or {})

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: object) -> None:
        error = f"its process died {RETRIES + 1} times; last error: {last_error_line(trial)}"
        self.search.conclude(trial_number(trial), {"error": error, "is_transient": True})


def trial_number(trial: RayTrial) -> int:
    """Our number of one of Ray's trials."""
    return Assignment.from_config(trial.config).number


def last_error_line(trial: RayTrial) -> str:
    """The last line that Ray wrote about a process that died or could not be started."""
    try:
        with open(trial.error_file, encoding="utf-8", errors="replace") as file:
            return [line.strip() for line in file if line.strip()][-1][:200]
    except (OSError, TypeError, IndexError):
        return "unknown"


def run_by_ray(
    search: OngoingSearch, scheduler: TrialScheduler, signals: Interruption, resources: Mapping[str, float]
) -> None:
    """Run all trials that are waiting. Raises Interrupted, and errors of the search."""
    tuner = tune.Tuner(
        tune.with_resources(train_trial, dict(resources)),
        tune_config=tune.TuneConfig(
            search_alg=AssignmentSearcher(search),
            scheduler=scheduler,
            num_samples=len(search.waiting),
            time_budget_s=search.options.time_budget,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"{trial_number(trial):04d}",
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=search.folder.scratch,
            verbose=0,
            callbacks=[SearchCallback(search, signals)],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            log_to_file=False,
        ),
    )
    with search.raising_first_error():
        tuner.fit()


def make_scheduler(search: OngoingSearch, longest: int) -> TrialScheduler:
    """ASHA if the options ask for it, else a scheduler that stops nothing. longest: epochs of the longest trial."""
    return ResumableAsha(search, longest) if search.options.stops else FIFOScheduler()  # type: ignore[no-untyped-call]


def decision_epochs(longest: int, grace: int, reduction_factor: int) -> list[int]:
    """The epochs at which ASHA decides whether to stop a trial; trials report only these."""
    found, epoch = [], grace
    while epoch < longest:
        found.append(epoch)
        epoch *= reduction_factor
    return found
