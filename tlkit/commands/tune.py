"""tlkit tune: the options of finetune that suit a folder best, searched for."""

from __future__ import annotations

import dataclasses
import os

from tlkit import interruption
from tlkit.data.listing import require_folder
from tlkit.distributed.env import require_single_process
from tlkit.files.atomic import write_atomically
from tlkit.options import TuneOptions
from tlkit.options.space import absolute, as_toml
from tlkit.options.tune import CHANGED_ON_RESUMING
from tlkit.tuning.folder import SearchFolder, new_search_folder
from tlkit.tuning.start import look_at_data, remember, require_possible, resume_search


def tune(options: TuneOptions) -> int:
    """Search. Prints the path of the best trial's run folder; returns the exit status."""
    require_single_process("tune")
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
        from tlkit.tuning.run import run_search

        return run_search(search, resolved, dataset, signals)


def default_folder(options: TuneOptions) -> str:
    """runs/<data>-tune"""
    return os.path.join("runs", f"{os.path.basename(os.path.abspath(options.data))}-tune")


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
