"""prepared(): the steps from a plan to a training session, the same on every rank."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from tlkit.distributed.world import World
from tlkit.features.memory_cache import NO_MEMORY, FeatureMemory
from tlkit.interruption import Interruption
from tlkit.runs.batches import BatchBuilder, PreparedBatches
from tlkit.runs.consistency import require_same_files
from tlkit.runs.plan import Plan, require_same_images
from tlkit.runs.record import NO_RECORD, Record
from tlkit.runs.setup import TrainingSetup, set_up


@dataclass(frozen=True)
class TrainingSession:
    """Everything that one rank needs to train. signals: requests to stop."""

    setup: TrainingSetup
    batches: PreparedBatches
    signals: Interruption


@contextmanager
def prepared(
    plan: Plan, signals: Interruption, world: World, record: Record = NO_RECORD, memory: FeatureMemory = NO_MEMORY
) -> Iterator[TrainingSession]:
    """Build the classifier and the batches of a plan; close the image decoder at the end of the block.

    All ranks call this together: it contains every collective operation before training, in one order.
    record: on rank 0, writes the run folder between the steps.
    """
    require_same_files(plan.dataset.root, plan.dataset.images, world)
    setup = set_up(plan, world)
    with record.of(setup), closing(BatchBuilder(setup, signals, memory)) as builder:
        signals.raise_if_requested()
        setup = dataclasses.replace(setup, options=dataclasses.replace(setup.options, engine=builder.engine))
        record.write_options(setup)
        batches = builder.batches()
        if plan.checkpoint is not None:
            skipped = batches.dataset.skipped[len(plan.dataset.skipped) :]
            require_same_images(batches.dataset, plan.checkpoint, skipped)
        record.write_dataset(setup, batches.dataset)
        yield TrainingSession(setup, batches, signals)
