"""tlkit cache: list or clear the features and backbone graphs kept between runs."""

from __future__ import annotations

import os
import time

from tlkit.errors import DONE, OutputError, escape_name
from tlkit.features.cache import LAYOUT, cache_folder, clear, list_feature_sets, summarize
from tlkit.options import CacheOptions
from tlkit.terminal import compact, count, log_status, write_stdout


def cache(options: CacheOptions) -> int:
    """List the feature sets, most recently used first; or remove them all. Returns the exit status."""
    folder = cache_folder()
    if options.clear:
        try:
            freed, left = clear(folder)
        except OSError as error:
            raise OutputError(folder, f"cannot be cleared: {error.strerror}") from error
        kept = f"; {count(left, 'file')} of other users kept" if left else ""
        log_status("cleared", f"{compact(freed)}B of features and graphs in {folder}{kept}")
        return DONE
    sets = sorted(map(summarize, list_feature_sets(os.path.join(folder, LAYOUT))), key=lambda s: s.used, reverse=True)
    log_status("cache", f"{folder}: {count(len(sets), 'feature set')}, {compact(sum(s.size for s in sets))}B")
    for found in sets:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.used)) if found.used else "-"
        known = [
            escape_name(str(found.description.get(name, "-")))
            for name in ("backbone", "weights", "precision", "engine")
        ]
        write_stdout("\t".join([*known, str(found.features), str(found.size), used, found.folder]) + "\n")
    return DONE
