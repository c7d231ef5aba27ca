"""tlkit tune: search the options of finetune that suit a folder best."""

from __future__ import annotations

import dataclasses
import os

from tlkit import interruption
from tlkit.data.sources import require_data
from tlkit.distributed.env import require_single_process
from tlkit.options import TuneOptions
from tlkit.options.network import is_weights_file
from tlkit.options.space import as_toml
from tlkit.options.tune import CHANGED_ON_RESUMING
from tlkit.tuning.search_folder import SearchFolder, new_search_folder
from tlkit.tuning.start import read_dataset, require_feasible, resume_search, write_options


def tune(options: TuneOptions) -> int:
    """Run or resume a search. Prints the path of the best trial's run folder; returns the exit status."""
    require_single_process("tune")
    if options.resume is not None:
        changes = {name: getattr(options, name) for name in CHANGED_ON_RESUMING}
        return resume_search(SearchFolder(options.resume), changes, options.trust_pickle)
    require_data(options.data)
    require_feasible(options)
    default = os.path.join("runs", f"{options.data_name()}-tune")
    with new_search_folder(options.out, default) as search, interruption.handled("stopping") as signals:
        dataset = read_dataset(options)
        write_space(search, options)
        resolved = with_absolute_paths(options, search)
        write_options(search, options, resolved)
        from tlkit.tuning.run import run_search

        return run_search(search, resolved, dataset, signals)


def with_absolute_paths(options: TuneOptions, search: SearchFolder) -> TuneOptions:
    """The options with absolute paths, for resuming from any folder; the space is read from the search's own file."""
    is_folder = options.val is not None and isinstance(options.validation(), str)
    return dataclasses.replace(
        options,
        data=os.path.abspath(options.data),
        root=os.path.abspath(options.root) if options.root is not None else None,
        val=os.path.abspath(options.val) if options.val and is_folder else options.val,
        weights=os.path.abspath(options.weights) if is_weights_file(options.weights) else options.weights,
        trust_pickle=os.path.abspath(options.trust_pickle) if options.trust_pickle is not None else None,
        try_=None,
        space=search.space_file,
    )


def write_space(search: SearchFolder, options: TuneOptions) -> None:
    """Write the search space of --try and --space, or the default one, as TOML."""
    content = as_toml(options.written).encode()
    search.own.write(search.space_file, lambda file: file.write(content))
