"""What resume goes on with: the newest whole checkpoint, the options and images that belong to it, its best epoch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from tlkit import interruption
from tlkit.data.bad_images import check_images, read_skipped
from tlkit.data.folder import Dataset
from tlkit.data.image_file import ImageError
from tlkit.data.scan import log_dataset
from tlkit.data.sources import find_dataset
from tlkit.distributed.failures import write_note
from tlkit.distributed.join import joined
from tlkit.distributed.world import World
from tlkit.errors import DONE, SOME_INPUTS_FAILED, DataError, MismatchError, TlkitError
from tlkit.files.artifact import read_artifact
from tlkit.files.atomic import link_atomically
from tlkit.files.new_run import create_run_folder, default_run_folder
from tlkit.files.run_folder import RunFolder
from tlkit.interruption import Interruption
from tlkit.model.build import stored_options
from tlkit.model.files import MODEL_FORMAT
from tlkit.monitoring.run import report_and_close, run_monitor
from tlkit.options import FinetuneOptions, ResumeOptions
from tlkit.options.declare import flag_of, with_home
from tlkit.options.network import is_weights_file
from tlkit.runs.checkpoints import find_epoch, newest_checkpoint, read_checkpoint
from tlkit.runs.consistency import require_same_options
from tlkit.runs.policy import STANDALONE, RunPolicy
from tlkit.runs.train import require_same_images, train_run
from tlkit.terminal import log_status, write_stdout
from tlkit.training.loop import is_over

RESUME_OVERRIDES = (
    "epochs", "patience", "data", "weights", "device", "engine", "parallel", "stages", "split_at", "workers",
    "processes", "log", "trust_pickle",
)  # fmt: skip


SAFE_TO_CHANGE = (*RESUME_OVERRIDES, "val", "out", "keep_checkpoints", "save_every", "cache_limit", "no_onnx", "debug")
"""Options that a run may go on with another value of. Any other decides what is trained, and how; what --val decides,
the checkpoint knows image by image."""


def continue_in_place(
    run: RunFolder, options: ResumeOptions, signals: Interruption, world: World, policy: RunPolicy = STANDALONE
) -> int:
    """Go on in the run's own folder, from its newest checkpoint; from the beginning if there never was one."""
    if os.path.isfile(options.checkpoint):
        read_checkpoint(options.checkpoint)  # who names a file wants no other in its place
    file, checkpoint = newest_checkpoint(run) or (run.last_checkpoint, None)
    require_newest(run, options.checkpoint, checkpoint)
    stored = recorded_options(run, file, checkpoint)
    remembered = FinetuneOptions.stored_names()
    given = {**stored["given"], **{name: v for name, v in changes(options).items() if name in remembered}}
    resolved = changed(run.options_file, stored["resolved"], options)
    if checkpoint is None:
        log_status("resume", "from the beginning: the run was stopped before its first checkpoint")
        return train_run(run, given, resolved, stored_dataset(run, resolved), None, signals, world, policy=policy)
    if file != run.last_checkpoint:
        link_atomically(file, run.last_checkpoint)
    warn_of_another_schedule(stored_options(file, checkpoint["options"]), resolved)
    best = checkpoint["progress"]["best"]
    checkpoint["progress"]["best"] = available_best(run, checkpoint)
    if nothing_left(checkpoint, resolved) and has_whole_model(run, best):
        world.broadcast_object(None)  # the other ranks wait for an order, and there is none
        return leave_finished(run, checkpoint, resolved)
    return train_run(run, given, resolved, stored_dataset(run, resolved), checkpoint, signals, world, policy=policy)


def continue_elsewhere(run: RunFolder | None, options: ResumeOptions) -> int:
    """Go on in a new run folder from a checkpoint, with the options that it carries."""
    file, checkpoint = chosen_checkpoint(run, options.checkpoint)
    resolved = changed(file, checkpoint["options"], options)
    warn_of_another_schedule(stored_options(file, checkpoint["options"]), resolved)
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
        past = initial_checkpoints_of(new, file, checkpoint)
        return train_run(new, resolved.to_dict(), resolved, dataset, checkpoint, signals, world, past)


def chosen_checkpoint(run: RunFolder | None, named: str) -> tuple[str, dict[str, Any]]:
    """The file and content of the checkpoint that was named, or of the newest of the run that was."""
    if run is None or os.path.isfile(named):
        return named, read_checkpoint(named)
    newest = newest_checkpoint(run)
    if newest is None:
        raise DataError(named, "has no checkpoint yet", f"Go on with: tlkit resume {named}")
    return newest


def require_newest(run: RunFolder, named: str, checkpoint: Mapping[str, Any] | None) -> None:
    """Raises MismatchError if the checkpoint that was named is older than the run's newest."""
    if checkpoint is None or not os.path.isfile(named):
        return
    step = read_checkpoint(named)["step"]
    if step != checkpoint["step"]:
        raise MismatchError(
            named,
            f"is not the newest of its run: it is at step {step}, the run at step {checkpoint['step']}",
            f"Resume {run.path} itself, or go on from here in a new folder with --out DIR.",
        )


def recorded_options(run: RunFolder, file: str, checkpoint: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """The options of options.json; if that is damaged, those of the checkpoint in `file`.

    Raises MismatchError if the two differ in what shapes training, DataError if options.json is damaged and no
    checkpoint knows better, or if the checkpoint's own cannot be.
    """
    if checkpoint is None:
        return run.read_options()
    whole = stored_options(file, checkpoint["options"]).to_dict()
    recorded = {name: value for name, value in whole.items() if name in checkpoint["options"]}
    try:
        stored = run.read_options()
    except DataError as error:
        log_status("warning", f"{error}; the checkpoint's options are taken")
        return {"given": recorded, "resolved": recorded}
    differences = [
        f"  {flag_of(name)}: {option_text(value)} in the checkpoint, "
        f"{option_text(stored['resolved'].get(name))} in the file"
        for name, value in recorded.items()
        if name not in SAFE_TO_CHANGE and with_home(stored["resolved"].get(name)) != value
    ]
    if differences:
        listing = "\n".join(differences)
        raise MismatchError(
            run.options_file,
            "is not what the run was trained with so far",
            f"{listing}\nPut these back, or start a new run with the new ones.",
        )
    return stored


def option_text(value: object) -> str:
    """An option's value, for people."""
    return "nothing" if value is None else str(value)


def changes(options: ResumeOptions) -> dict[str, Any]:
    """What this resume gives another value."""
    wanted = {name: getattr(options, name) for name in RESUME_OVERRIDES}
    given = {name: value for name, value in wanted.items() if value is not None}
    if options.parallel is not None:  # how its devices are to be used was said for another kind of it
        given = {"stages": options.stages, "split_at": options.split_at, **given}
    return {
        name: os.path.abspath(v) if name == "data" or (name == "weights" and is_weights_file(v)) else v
        for name, v in given.items()
    }


def changed(origin: str, stored: Mapping[str, Any], options: ResumeOptions) -> FinetuneOptions:
    """The run's options, with those that resume changes. Raises DataError for values that no option can have."""
    return dataclasses.replace(stored_options(origin, stored), **changes(options))


def warn_of_another_schedule(before: FinetuneOptions, now: FinetuneOptions) -> None:
    """The learning rate is a function of the planned epochs, so with others of them the run is another."""
    if now.planned_epochs() != before.planned_epochs():
        log_status(
            "warning",
            f"--epochs {now.planned_epochs()} where {before.planned_epochs()} were planned: the learning rate is laid "
            "out anew from here on, so the result is not that of a run planned so from its start",
        )


def available_best(run: RunFolder, checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row of the best epoch, `best` being its checkpoint again if it was not; None if that epoch is lost."""
    best: dict[str, Any] | None = checkpoint["progress"]["best"]
    if best is None:
        return None
    found = find_epoch([run.best_checkpoint, *run.checkpoint_files()], best)
    if found is None:
        log_status(
            "warning",
            f"the checkpoint of the best epoch, {best['epoch']}, is damaged or gone; the best counts from here on",
        )
        return None
    if found[0] != run.best_checkpoint:
        link_atomically(found[0], run.best_checkpoint)
    return best


def nothing_left(checkpoint: Mapping[str, Any], options: FinetuneOptions) -> bool:
    """Whether a run at this checkpoint has no epoch left to train."""
    best = checkpoint["progress"]["best"]
    return is_over(checkpoint["epoch"], best, options.planned_epochs(), options.patience)


def has_whole_model(run: RunFolder, best: Mapping[str, Any] | None) -> bool:
    """Whether the model is there as it was written, and of this epoch: a run that was extended has one of before."""
    if not os.path.exists(run.model_file):
        return False
    try:
        return bool(read_artifact(run.model_file, MODEL_FORMAT).get("figures") == best)
    except TlkitError as error:
        log_status("warning", f"{error}; it is written again")
        return False


def leave_finished(run: RunFolder, checkpoint: Mapping[str, Any], options: FinetuneOptions) -> int:
    """Say that nothing is left to do. What follows from the checkpoint is mended if it is damaged."""
    status = SOME_INPUTS_FAILED if os.path.exists(run.skipped_file) else DONE
    progress = checkpoint["progress"]
    run.write_history(progress["history"])
    if not run.has_status("finished"):
        with run_monitor(run, options, checkpoint["classes"]) as monitor:
            monitor.log(progress["history"])
            report_and_close(run, monitor)
        where = {"epoch": checkpoint["epoch"], "step": checkpoint["step"], "best": progress["best"]}
        where["micro_batch"] = progress.get("micro_batch")
        run.write_status("finished", exit_code=status, **where)
    log_status("resume", f"{run.path} {why_finished(checkpoint, options)}")
    write_stdout(os.fsencode(f"{run.model_file}\n"))
    return status


def why_finished(checkpoint: Mapping[str, Any], options: FinetuneOptions) -> str:
    """What to tell a user who resumes a run that has nothing left to do."""
    if checkpoint["epoch"] < options.planned_epochs():
        return f"was stopped by --patience {options.patience}; a larger --patience N goes on"
    return "is finished; --epochs N extends it"


def stored_dataset(run: RunFolder, options: FinetuneOptions) -> Dataset:
    """The images the run was started with; read again if it was stopped before it wrote them down, or the list is
    damaged: whether they are the same then shows by the checkpoint."""
    if os.path.exists(run.split_file):
        try:
            dataset = Dataset.from_split(run.read_split(), options.data)
            return dataclasses.replace(dataset, skipped=skipped_images(run))
        except DataError as error:
            log_status("warning", f"{error}; the images are looked for again")
    return rescan_dataset(options)


def rescan_dataset(options: FinetuneOptions) -> Dataset:
    """The images of the run's folder. All are decoded where bad ones were left out: those damaged inside were too."""
    return check_images(options, find_dataset(options), thorough=options.skip_bad)


def skipped_images(run: RunFolder) -> tuple[ImageError, ...]:
    """The images that the run leaves out, for people; none if their list is damaged."""
    try:
        return read_skipped(run)
    except (TlkitError, ValueError, KeyError, TypeError, RecursionError) as error:
        log_status(
            "warning", f"{run.skipped_file} cannot be read ({type(error).__name__}); the images are left out as before"
        )
        return ()


def initial_checkpoints_of(run: RunFolder, file: str, checkpoint: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a new run's checkpoints hold at first, by their files: what was read, and its best epoch if that is at hand.

    Where the best epoch is neither this one nor beside it, the best counts from here on.
    """
    past = {run.last_checkpoint: checkpoint}
    progress = checkpoint["progress"]
    if progress["best"] is None:
        return past
    old = RunFolder.containing(file)
    beside = [os.path.join(os.path.dirname(file), "best.pt"), *(old.checkpoint_files() if old else [])]
    found = find_epoch([file, *beside], progress["best"])
    if found is not None:
        return {**past, run.best_checkpoint: found[1]}
    log_status(
        "warning", f"the best epoch, {progress['best']['epoch']}, is not beside {file}; the best counts from here on"
    )
    progress["best"] = None
    return past
