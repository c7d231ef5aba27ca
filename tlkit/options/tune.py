"""Options of tune: those of finetune, which all trials share, and those of the search."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, get_type_hints

from tlkit.errors import UsageError
from tlkit.options.data import DataOptions
from tlkit.options.declare import Options, argument, flag_of, label_of, option
from tlkit.options.devices import names_one_gpu
from tlkit.options.finetune import FinetuneOptions
from tlkit.options.space import Point, Space, Written, described, read_written, space_of

DEFAULT_SAMPLES = 20
DEFAULT_GRACE = 5

NOT_TRIED = (
    *(field.name for field in dataclasses.fields(DataOptions) if field.name != "seed"),
    "out", "metric", "keep_checkpoints", "save_every", "device", "engine", "parallel", "stages", "split_at",
    "processes", "max_restarts", "rank_timeout", "rendezvous_timeout", "sync_batchnorm", "log", "cache_limit",
    "no_onnx", "trust_pickle", "deterministic", "debug", "weights_key", "folds",
)  # fmt: skip
"""Options of finetune that do not change the model, or would make trials incomparable."""

OF_ONE_RUN = {
    **dict.fromkeys(
        ("processes", "max_restarts", "rank_timeout", "rendezvous_timeout"),
        "applies to one run; tune runs trials in parallel instead",
    ),
    **dict.fromkeys(("parallel", "stages", "split_at"), "applies to one run; each trial of tune has one device"),
    "log": "applies to one run; tune writes results.jsonl, and a history.jsonl per trial",
}
"""Options of finetune that tune refuses, and why."""

CHANGED_ON_RESUMING = ("samples", "cpus_per_trial", "gpus_per_trial", "time_budget", "ray_address")
"""Options that a resumed search may change: its size and its resources."""


@dataclass(frozen=True, kw_only=True)
class TuneOptions(FinetuneOptions):
    """tlkit tune"""

    HIDDEN: ClassVar[frozenset[str]] = frozenset(OF_ONE_RUN)

    COMMON = ("try_", "samples", "backbone", "epochs", "metric", "out", "device", "resume")
    EXAMPLES = (
        "tlkit tune photos --samples 50",
        "tlkit tune photos --try learning_rate=loguniform:1e-4:1e-1 --try optimizer=choice:adamw,sgd",
        "tlkit tune photos --try backbone=grid:resnet18,convnext_tiny --folds 5",
        "tlkit resume runs/photos-tune",
    )

    data: str = argument(
        "Folder (DATA/CLASS/... or DATA/train/CLASS/...), or table of paths and labels",
        default="",
        metavar="DATA",
    )
    out: str | None = option(None, "Folder of the search", group="Common", shown="runs/<data>-tune", metavar="DIR")
    try_: list[str] | None = option(
        None, "Option and values to try; may be repeated", group="Common", shown="4 options; docs/tune.md",
        metavar="NAME=KIND:VALUES",
    )  # fmt: skip
    space: str | None = option(
        None, "TOML file of options and values to try", group="Search", shown="none", metavar="FILE"
    )
    samples: int | None = option(
        None, "Trials; with grids, trials per combination", group="Search", shown="20", minimum=1,
        maximum=1_000_000,
    )  # fmt: skip
    search: Literal["auto", "random", "grid", "bayesian"] = option(
        "auto", "How to choose values; auto: grid if all are grids, else random", group="Search"
    )
    scheduler: Literal["auto", "asha", "none"] = option(
        "auto", "Early stopping of weak trials; auto: asha, but none on a grid", group="Search"
    )
    grace_period: int | None = option(None, "Epochs before asha may stop a trial", group="Search", shown="5", minimum=1)
    reduction_factor: int = option(3, "One in N trials continues past each stop of asha", group="Search", minimum=2)
    folds: int | None = option(
        None, "Cross-validate: mean accuracy and standard error", group="Search", shown="off", minimum=2
    )
    cpus_per_trial: int | None = option(None, "CPU cores per trial", group="Search", shown="1", minimum=1)
    gpus_per_trial: float | None = option(
        None, "GPUs per trial, or a share of one", group="Search", shown="equal shares; 1 on a cluster", minimum=0
    )
    time_budget: float | None = option(
        None, "Stop after N seconds of trials; resume continues", group="Search", shown="off", minimum=1,
        metavar="N",
    )  # fmt: skip
    ray_address: str | None = option(
        None, "Ray cluster as HOST:PORT; none: this machine", group="Search", shown="none", metavar="none|NAME"
    )
    resume: str | None = option(
        None, "Finish this search; --samples may be larger", group="Common", shown="none", metavar="DIR",
        stored=False,
    )  # fmt: skip

    def __post_init__(self) -> None:
        Options.__post_init__(self)  # what does not go together shows in the trials: here options may be left open
        if self.resume is not None:
            self.require_nothing_else_given()
            return
        if not self.data:
            raise UsageError("DATA", "is missing")
        for name in sorted(self.given() & set(self.tried.dimensions)):
            problem = f"has one value, but --try or --space lists values of {name}; use one of them"
            raise UsageError(flag_of(name), problem)
        self.require_search_that_fits()
        self.require_possible_trials()

    @cached_property
    def written(self) -> list[Written]:
        """The search space as written. Raises UsageError or MissingInputError."""
        return read_written(self.try_ or (), self.space, self.given())

    @cached_property
    def tried(self) -> Space:
        """The search space. Raises as `written` does."""
        return space_of(self.written, kinds_tried())

    def given(self) -> set[str]:
        """The options of finetune that differ from their defaults."""
        return {f.name for f in dataclasses.fields(FinetuneOptions) if getattr(self, f.name) != f.default}

    @property
    def cluster(self) -> str | None:
        """The address of the cluster; None for this machine."""
        return None if self.ray_address == "none" else self.ray_address

    @property
    def method(self) -> str:
        """random, grid or bayesian."""
        if self.search != "auto":
            return self.search
        return "grid" if len(self.tried.grids) == len(self.tried.dimensions) else "random"

    @property
    def stops(self) -> bool:
        """Whether weak trials are stopped early."""
        return self.scheduler == "asha" or (self.scheduler == "auto" and self.method != "grid")

    def grace(self, epochs: int) -> int:
        """Epochs before the first trial may stop. epochs: of the longest trial."""
        return self.grace_period or min(DEFAULT_GRACE, epochs)

    def trials(self) -> int:
        """The number of trials."""
        if self.method == "grid":
            return self.tried.count(self.tried.dimensions)
        samples = self.samples or DEFAULT_SAMPLES
        if self.method == "random":
            samples = min(samples, self.tried.most_samples() or samples)
        return samples * self.tried.count(self.tried.grids)

    def shared(self) -> dict[str, object]:
        """The options that all trials share, before the values of a point replace some."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(FinetuneOptions)}
        return values | {"folds": 1}  # a trial trains on one split; --folds of a search trains more heads after it

    def trial(self, point: Point) -> FinetuneOptions:
        """The options of one trial. Raises UsageError for an invalid combination."""
        return FinetuneOptions.of({**self.shared(), **point})

    def require_nothing_else_given(self) -> None:
        """Raises UsageError for options that a resumed search cannot change."""
        for field in dataclasses.fields(self):
            may_change = field.name in (*CHANGED_ON_RESUMING, "resume", "debug", "trust_pickle")
            if getattr(self, field.name) != field.default and not may_change:
                problem = "cannot be combined with --resume, which uses the options of the search"
                raise UsageError(label_of(field), problem)

    def require_search_that_fits(self) -> None:
        """Raises UsageError for search options that do not fit the space or each other."""
        endless = [name for name, found in self.tried.dimensions.items() if not found.exhaustible]
        if self.search == "grid" and endless:
            problem = f"needs a list of values, but {endless[0]} has a range; use grid or choice"
            raise UsageError("--search grid", problem)
        if self.method == "grid" and self.samples is not None:
            raise UsageError("--samples", "cannot be combined with a grid, where each combination is tried once")
        for name in self.tried.grids if self.search == "bayesian" else ():
            raise UsageError("--search bayesian", f"cannot be combined with the grid of {name}; use choice")
        for name, why in OF_ONE_RUN.items():
            if name in self.given():
                raise UsageError(flag_of(name), why)
        gpus = self.gpus_per_trial
        if gpus is not None and gpus > 1 and gpus % 1:
            problem = "is neither a share of one GPU nor a whole number of GPUs"
            raise UsageError(f"--gpus-per-trial {gpus:g}", problem)
        if self.folds is not None and self.metric != "accuracy":
            problem = "cannot be combined with --folds, which ranks trials by mean accuracy"
            raise UsageError(f"--metric {self.metric}", problem)
        if names_one_gpu(self.device):
            problem = "names one GPU, but Ray gives each trial its GPU; use --device cuda"
            raise UsageError(f"--device {self.device}", problem)

    def require_possible_trials(self) -> None:
        """Raises UsageError for combinations that finetune would refuse."""
        for point in self.tried.corners():
            try:
                options = self.trial(point)
            except UsageError as error:
                raise UsageError(described(point), f"cannot be trained: {error}", error.hint) from error
            if options.batch_size == "auto" and options.feeds_images():
                problem = f"would differ between trials that share memory; give a number ({described(point)})"
                raise UsageError("--batch-size auto", problem)
            if self.folds is not None and options.feeds_images():
                problem = f"needs cached features, but the backbone runs in every epoch ({described(point)})"
                raise UsageError("--folds", problem)
            if self.stops and (self.grace_period or 1) > options.planned_epochs():
                problem = f"is longer than the {options.planned_epochs()} epochs of a trial"
                raise UsageError(f"--grace-period {self.grace_period}", problem)


def kinds_tried() -> dict[str, object]:
    """The options that a search may change, with their types."""
    hints = get_type_hints(FinetuneOptions)
    return {f.name: hints[f.name] for f in dataclasses.fields(FinetuneOptions) if f.name not in NOT_TRIED}


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))
