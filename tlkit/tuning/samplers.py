"""Samplers: the option values of each trial."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Protocol

from tlkit.errors import UnavailableError
from tlkit.options.dimensions import Choice, Dimension, Integer, LogUniform
from tlkit.options.space import Point, Space
from tlkit.tuning.results import Trial


class Sampler(Protocol):
    """Chooses the values of trials, which are numbered from 1."""

    def point(self, number: int) -> Point:
        """The values of a new trial."""

    def tell(self, trial: Trial, value: float | None) -> None:
        """Report a finished trial. value: larger is better; None if the trial failed."""


class SeededSampler:
    """Random search, grid search, or a grid with random samples at each of its points.

    A point depends only on the seed and the trial's number, so a resumed search needs no stored state.
    """

    def __init__(self, space: Space, method: str, seed: int) -> None:
        self.space = space
        self.seed = seed
        self.combinations = space.combinations(space.dimensions if method == "grid" else space.grids)
        self.samples_rest = method != "grid"

    def point(self, number: int) -> Point:
        sample, place = divmod(number - 1, len(self.combinations))
        rest = self.space.sample(self.seed, sample) if self.samples_rest else {}
        values = {**self.combinations[place], **rest}
        return {name: values[name] for name in self.space.dimensions}

    def tell(self, trial: Trial, value: float | None) -> None:
        """Do nothing: points do not depend on results."""


class OptunaSampler:
    """Bayesian search: Optuna's tree-structured Parzen estimator."""

    def __init__(self, space: Space, seed: int, known: int) -> None:
        """known: number of trials started before; it changes the seed, so a resumed search draws new points.

        Raises UnavailableError if Optuna is not installed.
        """
        try:
            import optuna
        except ImportError as error:
            problem, hint = "needs optuna, which is not installed", "Install it with: pip install 'tlkit[tune]'"
            raise UnavailableError("--search bayesian", problem, hint) from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.distributions = {name: distribution(optuna, found) for name, found in space.dimensions.items()}
        self.choices = {n: found.values for n, found in space.dimensions.items() if isinstance(found, Choice)}
        self.optuna = optuna
        sampler = optuna.samplers.TPESampler(seed=(seed * 1_000_003 + known) % 2**32, constant_liar=True)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.asked: dict[int, Any] = {}

    def point(self, number: int) -> Point:
        self.asked[number] = self.study.ask(self.distributions)
        found = self.asked[number].params
        return {n: self.choices[n][found[n]] if n in self.choices else found[n] for n in self.distributions}

    def tell(self, trial: Trial, value: float | None) -> None:
        states = self.optuna.trial.TrialState
        state = states.PRUNED if trial.state == "stopped" else states.COMPLETE  # pruned trials rank below complete ones
        asked = self.asked.pop(trial.trial, None)
        final = value if state is states.COMPLETE else None
        if asked is None and value is not None:  # a trial of an earlier process
            params = {n: self.choices[n].index(v) if n in self.choices else v for n, v in trial.options.items()}
            self.study.add_trial(
                self.optuna.trial.create_trial(
                    params=params,
                    distributions=self.distributions,
                    state=state,
                    value=final,
                    intermediate_values={trial.epochs: value},
                )
            )
        elif asked is not None and value is None:
            self.study.tell(asked, state=states.FAIL)
        elif asked is not None:
            asked.report(value, trial.epochs)
            self.study.tell(asked, final, state=state)


def distribution(optuna: ModuleType, dimension: Dimension) -> Any:
    """A dimension as an Optuna distribution; a choice by index, because Optuna stores only plain scalars."""
    kinds = optuna.distributions
    if isinstance(dimension, Choice):
        return kinds.CategoricalDistribution(range(len(dimension.values)))
    if isinstance(dimension, Integer):
        return kinds.IntDistribution(int(dimension.low), int(dimension.high))
    return kinds.FloatDistribution(dimension.low, dimension.high, log=isinstance(dimension, LogUniform))


def make_sampler(space: Space, method: str, seed: int, known: int) -> Sampler:
    """known: number of trials started before."""
    return OptunaSampler(space, seed, known) if method == "bayesian" else SeededSampler(space, method, seed)
