"""train_run(): train a run on rank 0, from its start or from a checkpoint, and write its model."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Mapping
from types import MappingProxyType

from tlkit.data.folder import Dataset, baseline_warning, class_counts
from tlkit.distributed.world import World
from tlkit.errors import DONE, SOME_INPUTS_FAILED, DataError
from tlkit.features.run_model import write_onnx_model
from tlkit.files.run_folder import RunFolder
from tlkit.interruption import Interruption
from tlkit.model.files import LoadedModel, write_model
from tlkit.monitoring.run_monitor import report_and_close
from tlkit.options import FinetuneOptions
from tlkit.runs.checkpoints import Checkpoint, Checkpointer, find_epoch
from tlkit.runs.plan import Plan, broadcast_plan
from tlkit.runs.record import RunRecord, print_model_path
from tlkit.runs.session import TrainingSession, prepared
from tlkit.runs.setup import resolve
from tlkit.runs.train_loop import STANDALONE, RunObserver, RunPolicy, train_and_save
from tlkit.runs.val_predictions import save_val_predictions
from tlkit.terminal import log_status
from tlkit.training.evaluation import standard_error
from tlkit.training.history import EpochRow
from tlkit.training.metrics import metrics_text, shown_metrics


def start_run(
    run: RunFolder,
    options: FinetuneOptions,
    dataset: Dataset,
    signals: Interruption,
    world: World,
    policy: RunPolicy = STANDALONE,
) -> int:
    """Train a new run. Prints the path of its model; returns the exit status."""
    resolved = dataclasses.replace(resolve(options), folds=dataset.fold_count)
    return train_run(run, Plan(resolved, dataset), options.to_dict(), signals, world, policy)


def train_run(
    run: RunFolder,
    plan: Plan,
    cli_options: Mapping[str, object],
    signals: Interruption,
    world: World,
    policy: RunPolicy = STANDALONE,
    initial_checkpoints: Mapping[str, Checkpoint] = MappingProxyType({}),
) -> int:
    """Train a plan until its model is written, on rank 0; the other ranks call run_worker.

    cli_options: the options as typed, which options.json holds beside the resolved ones. initial_checkpoints: those
    that a new run starts with when it continues another run, by file. Returns the exit status.
    """
    broadcast_plan(plan, world)
    record = RunRecord(run, cli_options, initial_checkpoints)
    with prepared(plan, signals, world, record, policy.memory) as session:
        options = session.setup.options
        checkpointer = Checkpointer(run, record.origin, options.metric, options.keep_checkpoints, options.save_every)
        record.monitor.log([row.to_dict() for row in session.setup.state.history])
        train_and_save(session, RunObserver(run, session, checkpointer, record.monitor, policy))
        best = load_best(run, session)
        save_val_predictions(run, session.batches, best.epoch)
        if policy.exports_model:
            classifier, description = session.setup.classifier, session.setup.description
            model = LoadedModel(classifier.to_plain_network(), description)
            write_model(run.model_file, model, best.to_dict(), run.root)
            write_onnx_model(run, options, classifier, description)
            report_and_close(run, record.monitor)
        status = finish(run, session, best)
    if policy.exports_model:
        print_model_path(run, session.setup.state.where())
    return status


def load_best(run: RunFolder, session: TrainingSession) -> EpochRow:
    """Load the best epoch into the classifier and return its row. Raises DataError if its checkpoint is lost."""
    best = session.setup.state.best
    epochs = session.setup.options.planned_epochs() + 20
    more_epochs = f"Train more epochs with: tlkit resume {shlex.quote(run.path)} --epochs {epochs}"
    if best is None:
        raise DataError(run.path, "has no epoch left to train, and its best epoch is lost", more_epochs)
    checkpoint = find_epoch([run.best_checkpoint, *run.checkpoint_files()], best)
    if checkpoint is None:
        problem = f"is damaged or missing, and no other checkpoint is of the best epoch, {best.epoch}"
        raise DataError(run.best_checkpoint, f"{problem}: no model is written", more_epochs)
    session.setup.classifier.load_trainable_state(checkpoint.content["model_state_dict"])
    return best


def finish(run: RunFolder, session: TrainingSession, best: EpochRow) -> int:
    """Record that the run is finished, and print its result. Returns the exit status."""
    status = SOME_INPUTS_FAILED if os.path.exists(run.skipped_file) else DONE
    run.write_status("finished", exit_code=status, **session.setup.state.where())
    metrics = metrics_text(best.val, shown_metrics(session.setup.options.metric), ", ")
    dataset = session.batches.dataset
    where = "on the validation images"
    if dataset.folds:
        error = standard_error(best.val["accuracy"], len(dataset.val))
        where = f"out-of-fold on {len(dataset.val):,} images (standard error of the accuracy {error:.4f})"
    log_status("best", f"epoch {best.epoch}: {metrics} {where}")
    for warning in baseline_warning(dataset.classes, *class_counts(dataset), best.val["accuracy"]):
        log_status("warning", warning)
    log_status("next", f"tlkit predict {shlex.quote(run.path)} IMAGE...")
    return status
