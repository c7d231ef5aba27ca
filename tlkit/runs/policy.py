"""RunPolicy: how a run behaves alone, and as a trial of a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tlkit.features.memory_cache import NO_MEMORY, FeatureMemory
from tlkit.training.loop import TrainingObserver
from tlkit.training.state import TrainingState


def always(state: TrainingState) -> bool:
    return True


@dataclass(frozen=True)
class RunPolicy:
    """saves: whether to write a checkpoint of an epoch that is neither the best nor the last.

    observer: called after each epoch is saved and logged; may raise StopTraining to end the run early.
    exports_model: whether to write model.pt. The checkpoint of the best epoch is a hundred times smaller and enough
    where the backbone's weights are available.
    memory: features kept in memory for the next runs of this process.
    """

    saves: Callable[[TrainingState], bool] = always
    observer: TrainingObserver = field(default_factory=TrainingObserver)
    exports_model: bool = True
    memory: FeatureMemory = NO_MEMORY


STANDALONE = RunPolicy()
