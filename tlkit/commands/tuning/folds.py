"""A trial judged on several divisions of all images: as many heads, trained in memory on vectors that are known."""

from __future__ import annotations

from contextlib import closing

from tlkit.commands.assembly import assemble
from tlkit.commands.devices import choose_device
from tlkit.commands.images import Preparation
from tlkit.commands.training_run import resolve
from tlkit.commands.vector_memory import VectorMemory
from tlkit.commands.watched_training import class_weights, few_threads, recipe_of
from tlkit.data.folder import Dataset, folds_of
from tlkit.interruption import Interruption
from tlkit.model.inference import choose_precision
from tlkit.options import FinetuneOptions
from tlkit.training.loop import train, validation_figures
from tlkit.training.optimizer import build_optimizer
from tlkit.training.state import TrainingState


def cross_validate(
    options: FinetuneOptions, dataset: Dataset, folds: int, signals: Interruption, memory: VectorMemory
) -> list[float]:
    """The accuracy of each fold: of a head trained on all others, at its best epoch, as a run's own is."""
    resolved = resolve(options)
    return [accuracy_on(resolved, fold, signals, memory) for fold in folds_of(dataset, folds, options.seed)]


def accuracy_on(options: FinetuneOptions, dataset: Dataset, signals: Interruption, memory: VectorMemory) -> float:
    """The validation accuracy of a head trained as the options say; nothing of it is kept."""
    device = choose_device(options.device)
    classifier, description = assemble(options, dataset.classes)
    classifier.to(device)
    classifier.backbone.precision = choose_precision(options.precision, device)
    state = TrainingState(
        classifier, build_optimizer(classifier.head, classifier.backbone, options.optimizer, options.weight_decay)
    )
    with closing(Preparation(options, dataset, classifier, description, device, True, signals, memory)) as preparation:
        images = preparation.batches()
    weights = class_weights(options.class_weights, dataset)
    with few_threads(images.module, options.batch_size):
        train(
            images.module,
            state,
            images.train,
            images.val,
            recipe_of(options),
            weights,
            device,
            lambda state, is_best: None,
            lambda state: None,
        )
    assert state.best is not None
    return validation_figures(state.best)["accuracy"]
