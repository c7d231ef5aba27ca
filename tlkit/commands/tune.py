"""tlkit tune: the options of finetune that suit a folder best, searched for."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from tlkit import interruption
from tlkit.commands.finetune import require_devices, require_weights_file, say_dataset
from tlkit.commands.image_check import check_images
from tlkit.commands.survey import find_dataset
from tlkit.commands.tuning.cluster import require_answer, require_ray
from tlkit.commands.tuning.search_folder import SearchFolder, new_search_folder
from tlkit.data.folder import Dataset
from tlkit.data.listing import require_folder
from tlkit.declarations import flag_of
from tlkit.errors import DataError, MissingInputError, UsageError
from tlkit.options import TuneOptions
from tlkit.options.space import absolute, as_toml
from tlkit.options.tune import CHANGED_ON_RESUMING, cores
from tlkit.ranks import require_alone
from tlkit.storage import write_atomically, write_json_atomically
from tlkit.terminal import count


def tune(options: TuneOptions) -> int:
    """Search. Prints the path of the best trial's run folder; returns the exit status."""
    require_alone("tune")
    if options.resume is not None:
        given = {name: getattr(options, name) for name in CHANGED_ON_RESUMING}
        return resume_search(SearchFolder(options.resume), given, options.trust_pickle)
    require_folder(options.data)
    require_possible(options)
    with new_search_folder(options.out, default_folder(options)) as search, interruption.handled("stopping") as signals:
        dataset = look_at_data(options)
        write_space(search, options)
        resolved = from_anywhere(options, search)
        remember(search, options, resolved)
        from tlkit.commands.tuning.course import search_through

        return search_through(search, resolved, dataset, signals)


def resume_search(search: SearchFolder, changes: Mapping[str, Any], trust_pickle: str | None = None) -> int:
    """Finish what is missing of a search. Prints and returns as `tune` does."""
    require_alone("tune")
    if not search.exists():
        raise MissingInputError(search.path, "is not the folder of a search: it has no search.json")
    search = SearchFolder(os.path.abspath(search.path))
    with search.locked(), interruption.handled("stopping") as signals:
        trusted = os.path.abspath(trust_pickle) if trust_pickle is not None else None
        options = read_options(search, {**changes, "trust_pickle": trusted})
        require_possible(options)
        remember(search, options, options)
        dataset = look_at_data(options)
        from tlkit.commands.tuning.course import search_through

        return search_through(search, options, dataset, signals)


def read_options(search: SearchFolder, changes: Mapping[str, Any]) -> TuneOptions:
    """The options of a search, with those that are changed now. Raises DataError, or UsageError for the changes."""
    stored = search.read()
    try:
        before = TuneOptions.from_dict({**stored, "space": search.space_file})  # wherever the folder is now
    except UsageError as error:
        raise DataError(search.search_file, f"holds options that no search has: {error}") from error
    options = dataclasses.replace(before, **{name: value for name, value in changes.items() if value is not None})
    if options.trials() < before.trials():
        problem = f"makes {count(options.trials(), 'trial')}, fewer than the {before.trials()} that the search has"
        raise UsageError(f"--samples {options.samples}", problem)
    return options


def default_folder(options: TuneOptions) -> str:
    """runs/<data>-tune"""
    return os.path.join("runs", f"{os.path.basename(os.path.abspath(options.data))}-tune")


def require_possible(options: TuneOptions) -> None:
    """Raises for what cannot be had, as far as it shows before Ray starts."""
    require_ray()
    for point in options.tried.corners():
        require_weights_file(options.trial(point).weights)
    if options.cluster is not None:
        require_answer(options.cluster)
    elif (options.cpus_per_trial or 1) > cores():
        raise UsageError(
            f"{flag_of('cpus_per_trial')} {options.cpus_per_trial}", f"is more than the {cores()} cores that there are"
        )


def look_at_data(options: TuneOptions) -> Dataset:
    """The images, looked at before any long work."""
    dataset = find_dataset(options)
    say_dataset(dataset)
    require_devices(options.placing())
    require_folds(options, dataset)
    return check_images(options, dataset)


def require_folds(options: TuneOptions, dataset: Dataset) -> None:
    """Raises UsageError for a class that has fewer images than there are folds."""
    images = [sample.label for sample in dataset.train + dataset.val]
    for label, name in enumerate(dataset.classes):
        if options.folds is not None and images.count(label) < options.folds:
            raise UsageError(
                f"--folds {options.folds}", f"is more than class {name!r} has images, {images.count(label)}"
            )


def from_anywhere(options: TuneOptions, search: SearchFolder) -> TuneOptions:
    """The options with paths that mean the same from any folder; what is tried, the search's own file says."""
    is_folder = options.val is not None and isinstance(options.validation(), str)
    return dataclasses.replace(
        options,
        data=os.path.abspath(options.data),
        val=os.path.abspath(options.val) if options.val and is_folder else options.val,
        weights=absolute(options.weights),
        trust_pickle=os.path.abspath(options.trust_pickle) if options.trust_pickle is not None else None,
        try_=None,
        space=search.space_file,
    )


def write_space(search: SearchFolder, options: TuneOptions) -> None:
    """Keep what --try and --space say, or what is tried without them."""
    content = as_toml(options.written).encode()
    write_atomically(search.space_file, lambda file: file.write(content))


def remember(search: SearchFolder, given: TuneOptions, resolved: TuneOptions) -> None:
    """Make a folder a search that can be resumed."""
    write_json_atomically(search.search_file, {"given": given.to_dict(), "resolved": resolved.to_dict()})
