"""Resume a run: in its own folder from the newest checkpoint, or in a new folder from any checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex

from tlkit import interruption
from tlkit.data.bad_images import check_images, read_skipped
from tlkit.data.folder import Dataset
from tlkit.data.scan import log_dataset
from tlkit.data.sources import find_training_set
from tlkit.data.table_file import table_digest
from tlkit.distributed.failures import write_note
from tlkit.distributed.join import joined
from tlkit.distributed.world import World
from tlkit.errors import DONE, SOME_INPUTS_FAILED, DataError, MismatchError, MissingInputError, TlkitError
from tlkit.files.artifact import read_artifact
from tlkit.files.json_file import read_whole_json
from tlkit.files.new_run import create_run_folder, default_run_folder, free_name
from tlkit.files.run_folder import RunFolder
from tlkit.interruption import Interruption
from tlkit.model.files import MODEL_FORMAT
from tlkit.monitoring.run_monitor import report_and_close, run_monitor
from tlkit.options import FinetuneOptions, ResumeOptions
from tlkit.options.data import is_table
from tlkit.runs.checkpoints import Checkpoint, find_epoch, newest_checkpoint, read_checkpoint
from tlkit.runs.consistency import require_same_options
from tlkit.runs.plan import Plan, broadcast_plan, require_same_content, require_same_images
from tlkit.runs.record import print_model_path
from tlkit.runs.resume_options import overrides, recorded_options, warn_of_other_schedule, with_overrides
from tlkit.runs.train import train_run
from tlkit.runs.train_loop import STANDALONE, RunPolicy
from tlkit.terminal import log_status
from tlkit.training.history import EpochRow
from tlkit.training.loop import is_over

# ---- in the run's own folder


def resume_in_place(
    run: RunFolder, options: ResumeOptions, signals: Interruption, world: World, policy: RunPolicy = STANDALONE
) -> int:
    """Resume a run from its newest checkpoint; from the start if it has none. Returns the exit status."""
    file = options.checkpoint
    # A named file that is damaged is an error: no other may replace it.
    named = read_checkpoint(file) if os.path.isfile(file) else None
    checkpoint = newest_checkpoint(run)
    if named is not None and checkpoint is not None and named.step != checkpoint.step:
        raise MismatchError(
            file,
            f"is not the newest checkpoint of its run: it is at step {named.step}, the run at step {checkpoint.step}",
            f"Resume the run with: tlkit resume {shlex.quote(run.path)}\n"
            f"Or start a new run from this checkpoint with: tlkit resume {shlex.quote(file)} "
            f"--out {shlex.quote(free_name(run.path))}",
        )
    recorded = recorded_options(run, checkpoint)
    stored = FinetuneOptions.stored_names()
    changed = {name: value for name, value in overrides(options).items() if name in stored}
    cli_options = {**recorded["given"], **changed}
    resolved = with_overrides(run.options_file, recorded["resolved"], options)
    if checkpoint is None:
        log_status("resume", "from the start: the run was stopped before its first checkpoint")
        return train_run(run, Plan(resolved, stored_dataset(run, resolved)), cli_options, signals, world, policy)
    if checkpoint.path != run.last_checkpoint:
        run.link(checkpoint.path, run.last_checkpoint)
    warn_of_other_schedule(checkpoint, resolved)
    best = checkpoint.best
    if not restore_best_checkpoint(run, checkpoint):
        checkpoint = checkpoint.without_best()
    is_run_over = is_over(checkpoint.epoch, checkpoint.best, resolved)
    if is_run_over and has_model_of(run, best):
        broadcast_plan(None, world)
        return leave_finished(run, checkpoint, resolved)
    plan = Plan(resolved, stored_dataset(run, resolved), checkpoint)
    require_same_content(plan.dataset, checkpoint, f"tlkit resume {shlex.quote(run.path)} --accept-changed-data")
    return train_run(run, plan, cli_options, signals, world, policy)


def restore_best_checkpoint(run: RunFolder, checkpoint: Checkpoint) -> bool:
    """Make best.pt the checkpoint of the best epoch, if it is damaged or an older one. False if that epoch is lost."""
    best = checkpoint.best
    if best is None:
        return False
    found = find_epoch([run.best_checkpoint, *run.checkpoint_files()], best)
    if found is None:
        log_status(
            "warning",
            f"the checkpoint of the best epoch, {best.epoch}, is damaged or missing; "
            "the best epoch is chosen from later epochs",
        )
        return False
    if found.path != run.best_checkpoint:
        run.link(found.path, run.best_checkpoint)
    return True


def has_model_of(run: RunFolder, best: EpochRow | None) -> bool:
    """Whether model.pt is undamaged and of this epoch. A run with more --epochs has that of an earlier one."""
    if not os.path.exists(run.model_file):
        return False
    try:
        figures = read_artifact(run.model_file, MODEL_FORMAT).get("figures")
        return best is not None and EpochRow.from_dict(figures) == best
    except ValueError:
        return False
    except TlkitError as error:
        log_status("warning", f"{error}; the model is written again")
        return False


def leave_finished(run: RunFolder, checkpoint: Checkpoint, options: FinetuneOptions) -> int:
    """Report that nothing is left to train; repair files that follow from the checkpoint. Returns the exit status."""
    status = SOME_INPUTS_FAILED if os.path.exists(run.skipped_file) else DONE
    history = [row.to_dict() for row in checkpoint.history]
    run.write_history(history)
    if not run.has_status("finished"):
        with run_monitor(run, options, checkpoint.classes) as monitor:
            monitor.log(history)
            report_and_close(run, monitor)
    how, flag = "is finished", "--epochs"
    if checkpoint.epoch < options.planned_epochs():
        how, flag = f"was stopped by --patience {options.patience}", "--patience"
    more = f"{flag} {(options.patience or 0) * 2 if flag == '--patience' else checkpoint.epoch + 20}"
    log_status("resume", f"{run.path} {how}; to train on: tlkit resume {shlex.quote(run.path)} {more}")
    if not run.has_status("finished", status):  # the path could not be printed before
        run.write_status("finished", exit_code=status, **checkpoint.where())
    print_model_path(run, checkpoint.where())
    return status


# ---- in a new folder


def resume_in_new_folder(run: RunFolder | None, options: ResumeOptions) -> int:
    """Start a new run from a checkpoint, with the options that it holds. run: the run of the checkpoint, if any."""
    file = options.checkpoint
    checkpoint = read_checkpoint(file) if run is None or os.path.isfile(file) else newest_checkpoint(run)
    if checkpoint is None:
        raise DataError(
            file, "has no checkpoint yet", f"Resume it in its own folder with: tlkit resume {shlex.quote(file)}"
        )
    resolved = with_overrides(checkpoint.path, checkpoint.options, options)
    warn_of_other_schedule(checkpoint, resolved)
    with (
        create_run_folder(options.out, default_run_folder(resolved)) as new,
        interruption.handled("stopping") as signals,
        joined(options) as world,
    ):
        write_note("run", os.path.abspath(new.path))
        require_same_options(options, world)
        dataset = stored_dataset(run, resolved) if run is not None else rescan_dataset(resolved)
        log_dataset(dataset)
        require_same_images(dataset, checkpoint)
        if not options.accept_changed_data:
            require_same_content(dataset, checkpoint, f"tlkit resume {shlex.quote(file)} --accept-changed-data")
        initial = initial_checkpoints(new, checkpoint)
        plan = Plan(resolved, dataset, initial[new.last_checkpoint])
        return train_run(new, plan, resolved.to_dict(), signals, world, initial_checkpoints=initial)


def initial_checkpoints(new: RunFolder, checkpoint: Checkpoint) -> dict[str, Checkpoint]:
    """The first checkpoints of a new run, by file: the one that was read, and that of its best epoch if it is found.

    Otherwise the best epoch is chosen from later epochs.
    """
    if checkpoint.best is None:
        return {new.last_checkpoint: checkpoint}
    file = checkpoint.path
    old = RunFolder.containing(file)
    beside = [os.path.join(os.path.dirname(file), "best.pt"), *(old.checkpoint_files() if old else [])]
    best = find_epoch([file, *beside], checkpoint.best)
    if best is not None:
        return {new.last_checkpoint: checkpoint, new.best_checkpoint: best}
    log_status(
        "warning",
        f"the checkpoint of the best epoch, {checkpoint.best.epoch}, was not found next to {file}; "
        "the best epoch is chosen from later epochs",
    )
    return {new.last_checkpoint: checkpoint.without_best()}


# ---- images of either


def stored_dataset(run: RunFolder, options: FinetuneOptions) -> Dataset:
    """The images of split.json. If it is missing or damaged, the data folder is read again; the checkpoint then tells
    whether the images are the same."""
    root = options.image_root(options.data)
    if not os.path.exists(root):
        flag = "--root" if is_table(options.data) else "--data"
        hint = f"If it has moved, name its new place: tlkit resume {shlex.quote(run.path)} {flag} DIR"
        raise MissingInputError(root, "no such folder; the images of the run were in it", hint)
    if not os.path.exists(run.split_file):
        return rescan_dataset(options)
    try:
        dataset = Dataset.from_split(run.read_split(), root)
        warn_of_other_table(run, options.data)
    except DataError as error:
        log_status("warning", f"{error}; the data folder is read again")
        return rescan_dataset(options)
    try:
        return dataclasses.replace(dataset, skipped=read_skipped(run))
    except (TlkitError, ValueError, KeyError, TypeError, RecursionError) as error:
        problem = f"{run.skipped_file} cannot be read ({type(error).__name__})"
        log_status("warning", f"{problem}; the images are skipped as before")
        return dataset


def warn_of_other_table(run: RunFolder, data: str) -> None:
    """Warn if the table has changed since the run started; a run keeps the images and labels of split.json."""
    with contextlib.suppress(TlkitError):
        recorded = read_whole_json(run.about_file).get("table")
        if is_table(data) and isinstance(recorded, dict) and table_digest(data) != recorded.get("sha256"):
            log_status("warning", f"{data} has changed since the run started; the run keeps its images and labels")


def rescan_dataset(options: FinetuneOptions) -> Dataset:
    """Read the data folder. With --skip-bad all images are decoded, to find damage in the middle of files too."""
    return check_images(options, find_training_set(options), thorough=options.skip_bad)
