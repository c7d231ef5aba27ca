"""The training loop as a run drives it: saved, said, stopped by a signal, and told of images when it goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import nn

from tlkit.data.batches import EpochSteps
from tlkit.data.folder import Dataset
from tlkit.devices.kinds import kind_of
from tlkit.devices.memory import PeakMemory
from tlkit.devices.select import Devices
from tlkit.errors import TlkitError
from tlkit.files.run_folder import RunFolder
from tlkit.interruption import Interrupted, Interruption
from tlkit.model.head import Head
from tlkit.monitoring.monitor import Monitor
from tlkit.options import FinetuneOptions
from tlkit.runs.batches import PreparedBatches
from tlkit.runs.checkpoints import Checkpointer
from tlkit.runs.policy import RunPolicy
from tlkit.runs.val_predictions import collecting_logits, save_collected
from tlkit.terminal import log_status
from tlkit.training.loop import AfterEpoch, AfterStep, NonFiniteLossError, Recipe, StopTraining, is_over, train
from tlkit.training.metrics import metrics_text, shown_metrics, validation_figures
from tlkit.training.state import TrainingState

SMALL_STEP = 1 << 24
"""Multiplications of a step that one thread does as fast as several."""


def train_to_the_end(
    run: RunFolder,
    options: FinetuneOptions,
    images: PreparedBatches,
    state: TrainingState,
    checkpointer: Checkpointer,
    devices: Devices,
    signals: Interruption,
    monitor: Monitor,
    policy: RunPolicy,
) -> None:
    """Run the training loop; every epoch is committed, said and logged, a signal ends it with a checkpoint.

    Whoever watches is told again of the epoch at which a run goes on: what was wished then may be lost.
    """
    peaks = PeakMemory(devices)

    def after_epoch(state: TrainingState, is_best: bool) -> None:
        state.history[-1].update(work_done(images.dataset, state.history[-1]["seconds"], devices.first, peaks))
        over = is_over(state.epoch, state.best, options.planned_epochs(), options.patience)
        if is_best or over or policy.saves(state):
            checkpointer.commit_epoch(state, is_best)
            run.write_status("running", **state.where())
        say_epoch(state, options.planned_epochs(), options.metric, is_best)
        monitor.log(state.history[-1:])
        policy.after_epoch(state)

    passing = state.micro_batch

    def hear_best(epoch: int, logits: torch.Tensor) -> None:
        save_collected(run, images, epoch, logits)

    def after_step(state: TrainingState) -> None:
        nonlocal passing
        if state.micro_batch != passing:
            passing = state.micro_batch
            say_shortage(state, options.images_per_step())
            run.write_status("running", **state.where())
        if checkpointer.is_due():
            checkpointer.commit_last(state)
            run.write_status("running", **state.where())

    with signals.deferred("saving a checkpoint"), suppress(StopTraining):
        try:
            if state.epoch:
                policy.after_epoch(state)
            run_loop(options, images, state, devices.first, after_epoch, after_step, hear_best)
        except NonFiniteLossError as error:
            error.name_files(batch_files(options, images.dataset, error))
            raise
        except Interrupted:
            save_before_leaving(checkpointer, state)
            raise
    peaks.say()


def train_along(
    options: FinetuneOptions,
    images: PreparedBatches,
    state: TrainingState,
    device: torch.device,
    signals: Interruption,
) -> None:
    """Run the same loop at a rank that saves and says nothing."""
    with signals.deferred(""):
        try:
            run_loop(options, images, state, device, no_op, no_op, no_op)
        except NonFiniteLossError:
            images.world.barrier()  # the first rank found it too, and tells it; whoever started the ranks ends this one


def no_op(*what: object) -> None:
    """What happens in the loop where nobody saves, says or keeps it."""


def run_loop(
    options: FinetuneOptions,
    images: PreparedBatches,
    state: TrainingState,
    device: torch.device,
    after_epoch: AfterEpoch,
    after_step: AfterStep,
    hear_best: Callable[[int, torch.Tensor], None],
) -> None:
    """Train as the options say, from where the state stands.

    hear_best: told, before after_epoch, what an epoch that is the best so far said of the validation images, if these
    pass the backbone each time: the epoch and the logits [N, C].
    """
    recipe = recipe_of(options)
    weights = class_weights(options.class_weights, images.dataset)
    with few_threads(images.module, options.images_per_step()), collecting_logits(images) as listener:

        def epoch_done(state: TrainingState, is_best: bool) -> None:
            collected = listener.collected(everything=is_best)
            if collected is not None:
                hear_best(state.epoch, collected)
            after_epoch(state, is_best)

        train(
            images.module, state, images.train, images.val, recipe, weights, device, epoch_done, after_step,
            images.world, options.sync_batchnorm,
        )  # fmt: skip


def work_done(dataset: Dataset, seconds: float, device: torch.device, peaks: PeakMemory) -> dict[str, float]:
    """How fast an epoch went, and what it took of a GPU: images trained and validated on in a second, the most bytes,
    and the percentage of the last moments in which it computed, where its driver can be asked."""
    images = len(dataset.train) + len(dataset.val)
    figures = {"images_per_second": round(images / max(seconds, 1e-3), 1)}
    if device in peaks.most:
        figures["gpu_memory"] = peaks.since_asked()[device]
    return {**figures, **kind_of(device).measured_use(device)}


def recipe_of(options: FinetuneOptions) -> Recipe:
    """How to train, as the loop takes it."""
    return Recipe(
        epochs=options.planned_epochs(),
        learning_rate=options.learning_rate,
        schedule=options.schedule,
        label_smoothing=options.label_smoothing,
        metric=options.metric,
        patience=options.patience,
        seed=options.seed,
    )


def batch_files(options: FinetuneOptions, dataset: Dataset, error: NonFiniteLossError) -> list[str]:
    """The images of the batch whose loss was no number: they follow from where it stands."""
    if error.step_in_epoch is None:
        return []
    labels = torch.tensor([sample.label for sample in dataset.train])
    steps = EpochSteps(labels, options.images_per_step(), options.seed).indices(error.epoch, error.step_in_epoch)
    return [dataset.train[index].path for index in next(steps).tolist()]


def save_before_leaving(checkpointer: Checkpointer, state: TrainingState) -> None:
    """A last checkpoint; where that cannot be written, the one before it must do."""
    try:
        checkpointer.commit_last(state)
    except TlkitError as error:
        log_status("warning", f"{error}; the run will go on from the checkpoint before")


@contextmanager
def few_threads(module: nn.Module, batch_size: int) -> Iterator[None]:
    """One thread for a head's steps, where they are so small that two would wait for each other longer than they work.

    On a machine with other work to do, waiting makes such a step a hundred times slower.
    """
    before = torch.get_num_threads()
    multiplications = batch_size * sum(parameter.numel() for parameter in module.parameters())
    if isinstance(module, Head) and multiplications <= SMALL_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def class_weights(kind: str, dataset: Dataset) -> torch.Tensor:
    """Factors [C] of each class in the training loss: ones, or inverse to its images, one on average over images."""
    counts = torch.bincount(torch.tensor([s.label for s in dataset.train]), minlength=len(dataset.classes))
    if kind == "none":
        return torch.ones(len(counts))
    return len(dataset.train) / (len(counts) * counts.clamp_min(1).float())


def say_shortage(state: TrainingState, batch_size: int) -> None:
    """That memory was used up, and what is done about it."""
    log_status(
        "warning",
        f"memory was used up at step {state.step}: from there on images pass {state.micro_batch} at a time; "
        f"each step is still that of {batch_size}",
    )


def say_epoch(state: TrainingState, epochs: int, metric: str, is_best: bool) -> None:
    """One line for an epoch. Of quick epochs, those that are best so far, every tenth and the last are said."""
    row = state.history[-1]
    if not (is_best or state.epoch % 10 == 0 or state.epoch == epochs or row["seconds"] > 1):
        return
    metrics = metrics_text(validation_figures(row), [name for name in shown_metrics(metric) if name != "loss"])
    figures = f"train loss {row['train_loss']:.4f}  val loss {row['val_loss']:.4f}  {metrics}"
    log_status("epoch", f"{row['epoch']:>{len(str(epochs))}}/{epochs}  {figures}{'  best' if is_best else ''}")
