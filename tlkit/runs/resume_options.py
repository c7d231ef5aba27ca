"""The options of a run that is resumed: as recorded, compared with its checkpoint, with those that resume changes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

from tlkit.errors import DataError, MismatchError, UsageError
from tlkit.files.run_folder import RunFolder
from tlkit.model.build import stored_options
from tlkit.options import FinetuneOptions, ResumeOptions
from tlkit.options.declare import flag_of, with_home, without_home
from tlkit.options.network import is_weights_file
from tlkit.runs.checkpoints import Checkpoint
from tlkit.runs.consistency import option_text
from tlkit.runs.machine import within_machine
from tlkit.terminal import count, log_status

RESUME_OVERRIDES = (
    "epochs", "patience", "data", "root", "weights", "weights_key", "device", "engine", "parallel", "stages",
    "split_at", "workers", "processes", "log", "trust_pickle",
)  # fmt: skip
"""Options that tlkit resume can change."""

OF_THIS_MACHINE = ("data", "val", "weights", "device", "processes", "workers", "log")
"""Recorded options that are about the machine: paths, devices, processes and tools."""

DEFAULTS = FinetuneOptions(data="").to_dict()

SAFE_TO_CHANGE = (*RESUME_OVERRIDES, "val", "out", "keep_checkpoints", "save_every", "cache_limit", "no_onnx", "debug")
"""Options that may differ between options.json and the checkpoint. Any other decides the result of training. The
validation images of --val are listed in the checkpoint."""


def recorded_options(run: RunFolder, checkpoint: Checkpoint | None) -> dict[str, dict[str, Any]]:
    """The options of options.json; if that is damaged, those of the checkpoint.

    Raises MismatchError if the two differ in an option that decides the result; DataError if options.json is damaged
    and there is no checkpoint, or if the checkpoint's options are not valid.
    """
    if checkpoint is None:
        return run.read_options()
    options = stored_options(checkpoint.path, checkpoint.options).to_dict()
    trained = {name: value for name, value in options.items() if name in checkpoint.options}
    try:
        recorded = run.read_options()
    except DataError as error:
        log_status("warning", f"{error}; the options of the checkpoint are used")
        return {"given": trained, "resolved": trained}
    differences = [
        f"{flag_of(name)}: {option_text(value)} in the checkpoint, "
        f"{option_text(recorded['resolved'].get(name))} in the file"
        for name, value in trained.items()
        if name not in SAFE_TO_CHANGE and with_home(recorded["resolved"].get(name)) != value
    ]
    if differences:
        advice = "Restore the values of the checkpoint, or start a new run with the new ones: tlkit finetune --help"
        raise MismatchError(run.options_file, "differs from the options of the checkpoint", advice, differences)
    return recorded


def given_values(options: object, names: Iterable[str]) -> dict[str, Any]:
    """The values of these options that were given, paths absolute."""
    values = {name: value for name in names if (value := getattr(options, name)) is not None}
    for name in ("data", "root", "weights"):
        if name in values and (name != "weights" or is_weights_file(values[name])):
            values[name] = os.path.abspath(values[name])
    return values


def overrides(options: ResumeOptions) -> dict[str, Any]:
    """The options that this resume changes, paths absolute."""
    # the recorded stages belong to the recorded --parallel
    stages = {"stages": None, "split_at": None} if options.parallel is not None else {}
    return {**stages, **given_values(options, RESUME_OVERRIDES)}


def with_overrides(origin: str, stored: Mapping[str, object], options: ResumeOptions) -> FinetuneOptions:
    """Stored options with the overrides of this resume. Raises DataError naming origin for invalid values.

    Logs which of the stored ones are about this machine: paths, devices, processes and tools.
    """
    before, changes = stored_options(origin, stored), overrides(options)
    taken = [name for name in OF_THIS_MACHINE if changes.get(name) is None]
    if "workers" in taken:
        changes["workers"] = within_machine(before.to_dict(), "workers")
    if before.cache_bytes() < FinetuneOptions(data="").cache_bytes():
        changes["cache_limit"] = DEFAULTS["cache_limit"]  # a smaller one deletes features of other runs
    result = dataclasses.replace(before, **changes)
    taken = [name for name in taken if getattr(result, name) != DEFAULTS[name]]
    if taken:
        values = ", ".join(f"{flag_of(name)} {option_text(without_home(getattr(result, name)))}" for name in taken)
        log_status("recorded", values)
    return result


def warn_of_other_schedule(checkpoint: Checkpoint, options: FinetuneOptions) -> None:
    """Warn if the number of epochs has changed, of which the learning rate is a function."""
    before, now = stored_options(checkpoint.path, checkpoint.options).planned_epochs(), options.planned_epochs()
    if now != before and now < checkpoint.epoch:
        problem = f"the run has trained {count(checkpoint.epoch, 'epoch')} already; expected more"
        raise UsageError(f"--epochs {now}", problem, f"Train on with: --epochs {checkpoint.epoch + 20}")
    if now != before:
        log_status(
            "warning",
            f"--epochs {now} instead of {before}: the learning-rate schedule is recomputed; "
            f"the result will differ from a run started with --epochs {now}",
        )
