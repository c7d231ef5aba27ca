"""How a run is conducted: by itself, or as one of many that others watch and compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tlkit.commands.vector_memory import NO_MEMORY, VectorMemory
from tlkit.training.state import TrainingState


def unwatched(state: TrainingState) -> None:
    """Nobody looks at an epoch."""


@dataclass(frozen=True)
class Conduct:
    """after_epoch: told of every epoch once it is saved; may raise EnoughSeen, and the run ends there in good order.

    ships: whether the finished model is written. A checkpoint of the best epoch says the same in a hundredth of the
    room, as long as the backbone's weights are at hand. memory: of the vectors of runs before.
    """

    after_epoch: Callable[[TrainingState], None] = unwatched
    ships: bool = True
    memory: VectorMemory = NO_MEMORY


BY_ITSELF = Conduct()
