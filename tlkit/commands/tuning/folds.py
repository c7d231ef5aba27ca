"""A trial judged on several divisions of all images: as many heads, trained in memory on vectors that are known."""

from __future__ import annotations

from contextlib import closing

from tlkit.commands.building import build, resolve
from tlkit.commands.images import Preparation
from tlkit.commands.vector_memory import VectorMemory
from tlkit.commands.watched_training import run_loop, unheeded
from tlkit.data.folder import Dataset, folds_of
from tlkit.distributed import ALONE
from tlkit.interruption import Interruption
from tlkit.options import FinetuneOptions
from tlkit.training.loop import validation_figures


def cross_validate(
    options: FinetuneOptions, dataset: Dataset, folds: int, signals: Interruption, memory: VectorMemory
) -> list[float]:
    """The accuracy of each fold: of a head trained on all others, at its best epoch, as a run's own is."""
    resolved = resolve(options)
    return [accuracy_on(resolved, fold, signals, memory) for fold in folds_of(dataset, folds, options.seed)]


def accuracy_on(options: FinetuneOptions, dataset: Dataset, signals: Interruption, memory: VectorMemory) -> float:
    """The validation accuracy of a head trained as the options say; nothing of it is kept."""
    built = build(options, dataset, None, ALONE, dataset.root)
    preparation = Preparation(
        built.options, dataset, built.classifier, built.description, built.devices, True, signals, ALONE, memory
    )
    with closing(preparation):
        images = preparation.batches()
    run_loop(built.options, images, built.state, built.devices.first, unheeded, unheeded, unheeded)
    assert built.state.best is not None
    return validation_figures(built.state.best)["accuracy"]
