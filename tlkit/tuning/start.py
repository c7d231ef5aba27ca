"""Check a search before it starts, or resume one. Loads neither torch nor Ray."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Mapping

from tlkit import interruption
from tlkit.data.bad_images import check_images
from tlkit.data.folder import Dataset
from tlkit.data.scan import log_dataset
from tlkit.data.sources import find_dataset
from tlkit.devices.request import require_devices
from tlkit.distributed.env import require_single_process
from tlkit.errors import DataError, MissingInputError, UnsafeError, UsageError
from tlkit.files.inputs import open_input, require_weights_file
from tlkit.options import TuneOptions
from tlkit.options.tune import cores
from tlkit.terminal import count
from tlkit.tuning.cluster import require_ray, require_reachable
from tlkit.tuning.search_folder import SearchFolder


def resume_search(search: SearchFolder, changes: Mapping[str, object], trust_pickle: str | None = None) -> int:
    """Run the trials of a search that are missing. Prints and returns as `tune` does."""
    require_single_process("tune")
    if not search.exists():
        raise MissingInputError(search.path, "is not the folder of a search: it has no search.json")
    search = SearchFolder(os.path.abspath(search.path))
    with search.locked(), interruption.handled("stopping") as signals:
        trusted = os.path.abspath(trust_pickle) if trust_pickle is not None else None
        options = read_options(search, {**changes, "trust_pickle": trusted})
        require_feasible(options)
        write_options(search, options, options)
        dataset = read_dataset(options)
        from tlkit.tuning.run import run_search

        return run_search(search, options, dataset, signals)


def read_options(search: SearchFolder, changes: Mapping[str, object]) -> TuneOptions:
    """The stored options of a search with changes. Raises DataError, or UsageError for the changes."""
    stored = search.read()
    with open_input(search.space_file):
        pass  # a regular file of bounded length
    try:
        before = TuneOptions.from_dict({**stored, "space": search.space_file})  # the folder may have been moved
    except UsageError as error:
        raise DataError(search.search_file, f"holds options that a search cannot have: {error}") from error
    if before.cluster is not None and changes.get("ray_address") is None:
        command = f"tlkit tune --resume {shlex.quote(search.path)} --ray-address"
        raise UnsafeError(
            search.search_file,
            f"names the Ray cluster {before.cluster}; expected it in the command, because a cluster runs code here",
            f"To connect to it: {command} {shlex.quote(before.cluster)}\nTo use this machine only: {command} none",
        )
    options = before.changed({name: value for name, value in changes.items() if value is not None})
    if options.trials() < before.trials():
        problem = f"makes {count(options.trials(), 'trial')}, fewer than the {before.trials()} that the search has"
        raise UsageError(f"--samples {options.samples}", problem)
    return options


def require_feasible(options: TuneOptions) -> None:
    """Raises if Ray, a weights file, the cluster or the CPU cores are missing."""
    require_ray()
    for point in options.tried.corners():
        require_weights_file(options.trial(point).weights)
    if options.cluster is not None:
        require_reachable(options.cluster)
    elif (options.cpus_per_trial or 1) > cores():
        problem = f"is more than the {count(cores(), 'core')} that this process may use"
        raise UsageError(f"--cpus-per-trial {options.cpus_per_trial}", problem)


def read_dataset(options: TuneOptions) -> Dataset:
    """Find and check the images before any long computation. Raises UsageError if a class cannot fill the folds."""
    dataset = find_dataset(options)
    log_dataset(dataset)
    require_devices(options.device_spec())
    images = Counter(sample.label for sample in dataset.train + dataset.val)
    for label, name in enumerate(dataset.classes):
        if options.folds is not None and images[label] < options.folds:
            problem = f"is more than the {count(images[label], 'image')} of class {name!r}"
            raise UsageError(f"--folds {options.folds}", problem)
    return check_images(options, dataset)


def write_options(search: SearchFolder, given: TuneOptions, resolved: TuneOptions) -> None:
    """Write search.json, which makes a folder a search that can be resumed."""
    search.own.write_json(search.search_file, {"given": given.to_dict(), "resolved": resolved.to_dict()})
