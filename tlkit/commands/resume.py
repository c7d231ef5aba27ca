"""tlkit resume: go on exactly where a run stopped."""

from __future__ import annotations

import dataclasses
import os
import shutil
from typing import Any

from tlkit import interruption
from tlkit.commands.checkpoints import read_checkpoint
from tlkit.commands.finetune import default_run_folder, require_same_images, say_dataset, train_run
from tlkit.commands.images import check_images, read_skipped
from tlkit.data.folder import Dataset, read_dataset
from tlkit.errors import DONE, SOME_INPUTS_FAILED, DataError, MismatchError, MissingInputError
from tlkit.options import FinetuneOptions, ResumeOptions
from tlkit.run_folder import RunFolder, new_run_folder
from tlkit.storage import write_atomically
from tlkit.terminal import emit, say
from tlkit.training.loop import is_over


def resume(options: ResumeOptions) -> int:
    """Go on with a run, in its folder or in a new one. Prints the path of its model; returns the exit status."""
    if not os.path.exists(options.checkpoint):
        raise MissingInputError(options.checkpoint, "no such run folder or checkpoint")
    run = RunFolder.containing(options.checkpoint)
    if run is None and os.path.isdir(options.checkpoint):
        raise DataError(options.checkpoint, "is not a run folder: it has no options.json")
    if run is None or options.out is not None:
        return resume_elsewhere(run, options)
    return resume_in_place(run, options)


def resume_in_place(run: RunFolder, options: ResumeOptions) -> int:
    """Go on in the run's own folder, from its last checkpoint; from the beginning if there is none yet."""
    with run.locked(), interruption.handled() as signals:
        run.remove_leftovers()
        stored = run.read_options()
        given = changed(FinetuneOptions.from_dict(stored["given"]), options)
        resolved = changed(FinetuneOptions.from_dict(stored["resolved"]), options)
        checkpoint = newest_checkpoint(run, options.checkpoint)
        if checkpoint is not None and os.path.exists(run.model_file) and nothing_left(checkpoint, resolved):
            say("resume", f"{run.path} {why_finished(checkpoint, resolved)}")
            emit(os.fsencode(f"{run.model_file}\n"))
            return SOME_INPUTS_FAILED if os.path.exists(run.skipped_file) else DONE
        dataset = stored_dataset(run, resolved)
        return train_run(run, given, resolved, dataset, checkpoint, signals)


def resume_elsewhere(run: RunFolder | None, options: ResumeOptions) -> int:
    """Go on in a new run folder from a checkpoint, with the options of its run, or those it carries itself."""
    file = options.checkpoint
    if run is not None and os.path.isdir(file):
        file = run.last_checkpoint
    checkpoint = read_checkpoint(file)
    stored = run.read_options()["resolved"] if run is not None else checkpoint["options"]
    resolved = changed(FinetuneOptions.from_dict(stored), options)
    with new_run_folder(options.out, default_run_folder(resolved)) as new, interruption.handled() as signals:
        if run is not None:
            dataset = stored_dataset(run, resolved)
        else:
            dataset = check_images(resolved, read_dataset(resolved.data, val=resolved.validation(), seed=resolved.seed))
        say_dataset(dataset)
        require_same_images(dataset, checkpoint)
        adopt(new, file, checkpoint)
        return train_run(new, resolved, resolved, dataset, checkpoint, signals)


def changed(stored: FinetuneOptions, options: ResumeOptions) -> FinetuneOptions:
    """The run's options, with those that resume may change."""
    wanted = {
        name: getattr(options, name)
        for name in ("epochs", "patience", "data", "weights", "device", "workers", "trust_pickle")
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    for name in given.keys() & {"data", "weights"}:
        given[name] = os.path.abspath(given[name])
    return dataclasses.replace(stored, **given)


def newest_checkpoint(run: RunFolder, named: str) -> dict[str, Any] | None:
    """The last checkpoint of a run, if there is one. Raises MismatchError if the one named is older."""
    if not os.path.exists(run.last_checkpoint):
        return None
    checkpoint = read_checkpoint(run.last_checkpoint)
    if os.path.isfile(named) and not os.path.samefile(named, run.last_checkpoint):
        step = read_checkpoint(named)["step"]
        if step != checkpoint["step"]:
            raise MismatchError(
                named,
                f"is not the newest of its run: it is at step {step}, the run at step {checkpoint['step']}",
                f"Resume {run.path} itself, or go on from here in a new folder with --out DIR.",
            )
    return checkpoint


def nothing_left(checkpoint: dict[str, Any], options: FinetuneOptions) -> bool:
    """Whether a run at this checkpoint has no epoch left to train."""
    best = checkpoint["progress"]["best"]
    return is_over(checkpoint["epoch"], best["epoch"] if best else 0, options.planned_epochs(), options.patience)


def why_finished(checkpoint: dict[str, Any], options: FinetuneOptions) -> str:
    """What to tell a user who resumes a run that has nothing left to do."""
    if checkpoint["epoch"] < options.planned_epochs():
        return f"was stopped by --patience {options.patience}; a larger --patience N goes on"
    return "is finished; --epochs N extends it"


def stored_dataset(run: RunFolder, options: FinetuneOptions) -> Dataset:
    """The images the run was started with; read again if it was stopped before it wrote them down."""
    if os.path.exists(run.split_file):
        return dataclasses.replace(Dataset.from_split(run.read_split(), options.data), skipped=read_skipped(run))
    return check_images(options, read_dataset(options.data, val=options.validation(), seed=options.seed))


def adopt(run: RunFolder, file: str, checkpoint: dict[str, Any]) -> None:
    """Give a new run the past of a checkpoint: the file itself, and its best epoch if that is at hand.

    Where the best epoch is neither this one nor beside it, the best counts from here on.
    """
    copy_atomically(file, run.last_checkpoint)
    progress = checkpoint["progress"]
    if progress["best"] is None:
        return
    beside = os.path.join(os.path.dirname(file), "best.pt")
    if progress["best"]["epoch"] == checkpoint["epoch"] and not progress["step_in_epoch"]:
        copy_atomically(file, run.best_checkpoint)
    elif os.path.exists(beside) and read_checkpoint(beside)["epoch"] == progress["best"]["epoch"]:
        copy_atomically(beside, run.best_checkpoint)
    else:
        say(
            "warning",
            f"the best epoch, {progress['best']['epoch']}, is not beside {file}; the best counts from here on",
        )
        progress["best"] = None


def copy_atomically(source: str, target: str) -> None:
    """Commit a copy of a file."""
    with open(source, "rb") as content:
        write_atomically(target, lambda file: shutil.copyfileobj(content, file))
