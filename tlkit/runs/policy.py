"""How a run is conducted: by itself, or as one of many that others watch and compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tlkit.features.memory_cache import NO_MEMORY, VectorMemory
from tlkit.training.state import TrainingState


def no_op(state: TrainingState) -> None:
    """Nobody looks at an epoch."""


def always(state: TrainingState) -> bool:
    """Every epoch is worth a checkpoint."""
    return True


@dataclass(frozen=True)
class RunPolicy:
    """saves: which epochs get a checkpoint, beside the best and the last. after_epoch: told of every epoch that is
    done; may raise EnoughSeen, and the run ends there in good order.

    ships: whether the finished model is written. A checkpoint of the best epoch says the same in a hundredth of the
    room, as long as the backbone's weights are at hand. memory: of the vectors of runs before.
    """

    saves: Callable[[TrainingState], bool] = always
    after_epoch: Callable[[TrainingState], None] = no_op
    exports_model: bool = True
    memory: VectorMemory = NO_MEMORY


STANDALONE = RunPolicy()
