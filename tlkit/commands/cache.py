"""tlkit cache: what is kept between runs, and how to be rid of it."""

from __future__ import annotations

import os
import time

from tlkit.errors import DONE, OutputError
from tlkit.features.cache import LAYOUT, cache_folder, clear, list_feature_sets, summarize
from tlkit.options import CacheOptions
from tlkit.terminal import compact, count, log_status, write_stdout


def cache(options: CacheOptions) -> int:
    """List the spaces of the feature store, the one used last first; or remove them all."""
    folder = cache_folder()
    if options.clear:
        try:
            freed = clear(folder)
        except OSError as error:
            raise OutputError(folder, f"cannot be cleared: {error.strerror}") from error
        log_status("cleared", f"{compact(freed)}B of vectors and graphs in {folder}")
        return DONE
    spaces = sorted(map(summarize, list_feature_sets(os.path.join(folder, LAYOUT))), key=lambda s: s.used, reverse=True)
    log_status("cache", f"{folder}: {count(len(spaces), 'space')}, {compact(sum(s.size for s in spaces))}B")
    for space in spaces:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(space.used)) if space.used else "-"
        known = [str(space.description.get(name, "-")) for name in ("backbone", "weights", "precision", "engine")]
        write_stdout("\t".join([*known, str(space.vectors), str(space.size), used, space.folder]) + "\n")
    return DONE
