"""EpochRow: the figures of one epoch, as a line of history.jsonl. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from tlkit.training.metrics import METRICS, history_key


@dataclass
class EpochRow:
    """One finished epoch.

    step: optimizer steps since the start of the run. learning_rate: of the epoch's last step.
    train, val: figures by the names of METRICS; rows of older versions lack some. measurements: speed and GPU use.
    """

    epoch: int
    step: int
    learning_rate: float
    train: dict[str, float]
    val: dict[str, float]
    seconds: float
    measurements: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, float]:
        """One flat dict: metrics as train_NAME and val_NAME."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "learning_rate": self.learning_rate,
            **{f"train_{name}": value for name, value in self.train.items()},
            **{history_key(name): value for name, value in self.val.items()},
            "seconds": self.seconds,
            **self.measurements,
        }

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """The inverse of to_dict. Raises ValueError naming the first value that is missing or has another type."""
        if not isinstance(values, Mapping):
            raise ValueError(f"an epoch is a {type(values).__name__}, not a dict")
        if type(values.get("epoch")) is not int:
            raise ValueError("epoch is missing or not an int")
        for name, metric in METRICS.items():
            if metric.headline and not is_number(values.get(history_key(name))):
                raise ValueError(f"{history_key(name)} is missing or not a number")
        numbers = {name: value for name, value in values.items() if isinstance(name, str) and is_number(value)}
        return cls(
            epoch=numbers.pop("epoch"),
            step=numbers.pop("step", 0),
            learning_rate=numbers.pop("learning_rate", 0.0),
            seconds=numbers.pop("seconds", 0.0),
            train=pop_prefixed(numbers, "train_"),
            val=pop_prefixed(numbers, history_key("")),
            measurements=numbers,
        )


def is_number(value: object) -> bool:
    """Whether a value is a finite number; JSON has integers of any length."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def pop_prefixed(numbers: dict[str, float], prefix: str) -> dict[str, float]:
    """Remove the entries whose name starts with the prefix; return them without it."""
    return {name.removeprefix(prefix): numbers.pop(name) for name in list(numbers) if name.startswith(prefix)}
