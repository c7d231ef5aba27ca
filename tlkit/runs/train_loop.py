"""The training loop as a run uses it: with checkpoints, log messages, and signals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import torch
from torch import nn

from tlkit.data.batches import EpochSteps
from tlkit.data.folder import Dataset
from tlkit.devices.kinds import kind_of
from tlkit.devices.memory import PeakMemory
from tlkit.errors import TlkitError
from tlkit.features.memory_cache import NO_MEMORY, FeatureMemory
from tlkit.files.run_folder import RunFolder
from tlkit.interruption import Interrupted
from tlkit.model.head import CrossValidatedHead, Head
from tlkit.monitoring.monitor import Monitor
from tlkit.options import FinetuneOptions
from tlkit.runs.checkpoints import Checkpointer
from tlkit.runs.session import TrainingSession
from tlkit.runs.val_predictions import collecting_logits
from tlkit.terminal import log_status
from tlkit.training.loop import NonFiniteLossError, StopTraining, Trainer, TrainingObserver, is_over
from tlkit.training.metrics import metrics_text, shown_metrics
from tlkit.training.state import TrainingState

ONE_VALUE = (
    "a batch of one image has one value per channel in some BatchNorm layers, so they use their running statistics "
    "for it; another --batch-size avoids such batches"
)

SMALL_STEP = 1 << 24
"""Multiplications of a step that one thread computes as fast as several."""


@dataclass(frozen=True)
class RunPolicy:
    """Differences between a run alone and a trial of a search.

    saves: whether to write a checkpoint of an epoch that is neither the best nor the last.
    observer: called after each epoch is saved and logged; may raise StopTraining to end the run early.
    exports_model: whether to write model.pt. The checkpoint of the best epoch is a hundred times smaller and enough
    where the backbone's weights are available.
    memory: features kept in memory for the next runs of this process.
    """

    saves: Callable[[TrainingState], bool] = lambda state: True
    observer: TrainingObserver = field(default_factory=TrainingObserver)
    exports_model: bool = True
    memory: FeatureMemory = NO_MEMORY


STANDALONE = RunPolicy()


@dataclass
class RunObserver(TrainingObserver):
    """Saves, prints and logs each epoch of a run, on rank 0."""

    run: RunFolder
    session: TrainingSession
    checkpointer: Checkpointer
    monitor: Monitor
    policy: RunPolicy
    peaks: PeakMemory = field(init=False)
    micro_batch: int | None = field(init=False)
    warned_of_one_value: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.peaks = PeakMemory(self.session.setup.devices)
        self.micro_batch = self.session.setup.state.micro_batch

    def after_step(self, state: TrainingState) -> None:
        if state.micro_batch != self.micro_batch:
            self.micro_batch = state.micro_batch
            log_status(
                "warning",
                f"out of memory at step {state.step}: from here on images pass {state.micro_batch} at a time; "
                f"each step still uses all {self.session.setup.options.images_per_step()} images of its batch",
            )
            self.run.write_status("running", **state.where())
        if state.met_one_value and not self.warned_of_one_value:
            self.warned_of_one_value = True
            log_status("warning", ONE_VALUE)
        if self.checkpointer.is_due():
            self.checkpointer.commit_last(state)
            self.run.write_status("running", **state.where())

    def after_epoch(self, state: TrainingState, is_best: bool) -> None:
        options, row = self.session.setup.options, state.history[-1]
        device = self.session.setup.devices.first
        row.measurements.update(measure_epoch(self.session.batches.dataset, row.seconds, device, self.peaks))
        is_last = is_over(state.epoch, state.best, options)
        if is_best or is_last or self.policy.saves(state):
            self.checkpointer.commit_epoch(state, is_best)
            self.run.write_status("running", **state.where())
        log_epoch(state, options.planned_epochs(), options.metric, is_best)
        self.monitor.log([row.to_dict()])
        self.policy.observer.after_epoch(state, is_best)


def train_and_save(session: TrainingSession, observer: RunObserver) -> None:
    """Train on rank 0: save, print and log every epoch, and save a last checkpoint on a signal.

    On resume, the policy's observer is called again for the current epoch, because its earlier decision may not have
    been stored.
    """
    state, policy, signals = session.setup.state, observer.policy, session.signals
    with signals.deferred("saving a checkpoint"), suppress(StopTraining):
        try:
            if state.epoch:
                policy.observer.after_epoch(state, is_best=state.best is not None and state.best.epoch == state.epoch)
            run_loop(session, [observer], observer.run)
        except NonFiniteLossError as error:
            error.name_files(batch_files(session.setup.options, session.batches.dataset, error))
            raise
        except Interrupted:
            try:
                observer.checkpointer.commit_last(state)
            except TlkitError as error:
                log_status("warning", f"{error}; the run will resume from the checkpoint before")
            raise
    observer.peaks.say()


def train_without_saving(session: TrainingSession) -> None:
    """Train on another rank: the same loop without an observer."""
    with session.signals.deferred(""):
        try:
            run_loop(session)
        except NonFiniteLossError:
            session.batches.world.barrier()  # rank 0 raises it too and reports it; the launcher ends this process


def run_loop(
    session: TrainingSession, observers: Sequence[TrainingObserver] = (), run: RunFolder | None = None
) -> None:
    """Train as the options say, from the current state. run: where to save the predictions of the best epoch."""
    setup, batches = session.setup, session.batches
    weights = class_weights(setup.options.class_weights, batches.dataset)
    trainer = Trainer(
        batches.module,
        setup.state,
        batches.train,
        batches.val,
        setup.options,
        weights,
        setup.devices.first,
        batches.world,
    )
    with few_threads(batches.module, setup.options.images_per_step()), collecting_logits(batches, run) as collector:
        trainer.train([collector, *observers])


def measure_epoch(dataset: Dataset, seconds: float, device: torch.device, peaks: PeakMemory) -> dict[str, float]:
    """images_per_second of training and validation; on a GPU also gpu_memory, the peak in bytes, and its use in percent
    at this moment, if the driver reports it."""
    images = len(dataset.images)
    measurements = {"images_per_second": round(images / max(seconds, 1e-3), 1)}
    if device in peaks.most:
        measurements["gpu_memory"] = peaks.since_asked()[device]
    return {**measurements, **kind_of(device).measured_use(device)}


def batch_files(options: FinetuneOptions, dataset: Dataset, error: NonFiniteLossError) -> list[str]:
    """The images of the batch whose loss is not finite, computed from its position."""
    if error.step_in_epoch is None:
        return []
    labels = torch.tensor([sample.label for sample in dataset.train])
    steps = EpochSteps(labels, options.images_per_step(), options.seed).indices(error.epoch, error.step_in_epoch)
    return [dataset.train[index].path for index in next(steps).tolist()]


@contextmanager
def few_threads(module: nn.Module, batch_size: int) -> Iterator[None]:
    """Use one thread for the steps of a head that are so small that synchronizing threads takes longer than computing.

    On a busy machine synchronizing makes such a step a hundred times slower.
    """
    before = torch.get_num_threads()
    multiplications = batch_size * sum(parameter.numel() for parameter in module.parameters())
    if isinstance(module, (Head, CrossValidatedHead)) and multiplications <= SMALL_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def class_weights(kind: str, dataset: Dataset) -> torch.Tensor:
    """Factors [C] of the classes in the training loss: ones, or inverse to their size with mean 1 over images."""
    counts = torch.bincount(torch.tensor([s.label for s in dataset.train]), minlength=len(dataset.classes))
    if kind == "none":
        return torch.ones(len(counts))
    return len(dataset.train) / (len(counts) * counts.clamp_min(1).float())


def log_epoch(state: TrainingState, epochs: int, metric: str, is_best: bool) -> None:
    """Print one line for an epoch. Of short epochs, only the best so far, every tenth and the last are printed."""
    row = state.history[-1]
    if not (is_best or state.epoch % 10 == 0 or state.epoch == epochs or row.seconds > 1):
        return
    metrics = metrics_text(row.val, [name for name in shown_metrics(metric) if name != "loss"])
    figures = f"train loss {row.train['loss']:.4f}  val loss {row.val['loss']:.4f}  {metrics}"
    log_status("epoch", f"{row.epoch:>{len(str(epochs))}}/{epochs}  {figures}{'  best' if is_best else ''}")
