"""The point of each trial: derived from its number, or, in a Bayesian search, learnt from those before."""

from __future__ import annotations

from typing import Any, Protocol

from tlkit.errors import UnavailableError
from tlkit.options.dimensions import Choice, Integer, LogUniform
from tlkit.options.space import Point, Space
from tlkit.tuning.results import Trial


class Points(Protocol):
    """Where points come from."""

    def point(self, number: int) -> Point:
        """Of a trial that begins, numbered from 1."""

    def tell(self, trial: Trial, value: float | None) -> None:
        """What became of a trial; None if it failed. Larger is better."""


class SeededSampler:
    """Every combination of what is on a grid, with each sample of the rest. A function of seed and number alone, so a
    search that goes on needs no memory of them."""

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
        pass


class OptunaSampler:
    """Optuna's: a tree-structured Parzen estimator over the trials so far."""

    def __init__(self, space: Space, seed: int, known: int) -> None:
        """known: trials that were begun before, which will be told; with them the seed is another, so that a search
        that goes on does not begin with the same points again."""
        optuna = import_optuna()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.distributions = {name: distribution(optuna, found) for name, found in space.dimensions.items()}
        self.values = {n: found.values for n, found in space.dimensions.items() if isinstance(found, Choice)}
        self.optuna = optuna
        sampler = optuna.samplers.TPESampler(seed=(seed * 1_000_003 + known) % 2**32, constant_liar=True)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.asked: dict[int, Any] = {}

    def point(self, number: int) -> Point:
        self.asked[number] = self.study.ask(self.distributions)
        found = self.asked[number].params
        return {n: self.values[n][found[n]] if n in self.values else found[n] for n in self.distributions}

    def tell(self, trial: Trial, value: float | None) -> None:
        asked = self.asked.pop(trial.trial, None)
        states = self.optuna.trial.TrialState
        if value is None:
            if asked is not None:
                self.study.tell(asked, state=states.FAIL)
        elif trial.state == "stopped":  # behind all that were not, whatever it had reached
            if asked is not None:
                asked.report(value, trial.epochs)
                self.study.tell(asked, state=states.PRUNED)
            else:
                self.add(trial, state=states.PRUNED, intermediate_values={trial.epochs: value})
        elif asked is not None:
            self.study.tell(asked, value)
        else:
            self.add(trial, state=states.COMPLETE, value=value)

    def add(self, trial: Trial, **outcome: Any) -> None:
        """Tell of a trial that was not asked for here."""
        params = {n: self.values[n].index(v) if n in self.values else v for n, v in trial.options.items()}
        self.study.add_trial(self.optuna.trial.create_trial(params=params, distributions=self.distributions, **outcome))


def distribution(optuna: Any, dimension: Any) -> Any:
    """A dimension as Optuna has it; of choices their places, as its own values may be plain scalars only."""
    kinds = optuna.distributions
    if isinstance(dimension, Choice):
        return kinds.CategoricalDistribution(range(len(dimension.values)))
    if isinstance(dimension, Integer):
        return kinds.IntDistribution(int(dimension.low), int(dimension.high))
    return kinds.FloatDistribution(dimension.low, dimension.high, log=isinstance(dimension, LogUniform))


def import_optuna() -> Any:
    """Raises UnavailableError."""
    try:
        import optuna
    except ImportError as error:
        raise UnavailableError(
            "--search bayesian", "needs optuna, which is not installed; get it by: pip install 'tlkit[tune]'"
        ) from error
    return optuna


def points_of(space: Space, method: str, seed: int, known: int) -> Points:
    """known: trials that were begun before."""
    return OptunaSampler(space, seed, known) if method == "bayesian" else SeededSampler(space, method, seed)
