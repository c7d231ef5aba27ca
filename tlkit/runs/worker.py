"""Training on ranks other than 0. They receive the plan from rank 0 and write no files."""

from __future__ import annotations

import os
from typing import Any

from tlkit import interruption
from tlkit.distributed.join import joined
from tlkit.errors import DONE
from tlkit.options import FinetuneOptions, ResumeOptions
from tlkit.options.network import is_weights_file
from tlkit.runs.consistency import require_same_options
from tlkit.runs.plan import receive_plan
from tlkit.runs.session import prepared
from tlkit.runs.train_loop import train_without_saving


def run_worker(options: FinetuneOptions | ResumeOptions) -> int:
    """Take part in a run that rank 0 starts or resumes. Returns the exit status."""
    with interruption.handled() as signals, joined(options) as world:
        require_same_options(options, world)
        plan = receive_plan(local_options(options), world)
        if plan is None:
            return DONE
        with prepared(plan, signals, world) as session:
            if plan.options.feeds_images():
                train_without_saving(session)
    return DONE


def local_options(options: FinetuneOptions | ResumeOptions) -> dict[str, Any]:
    """The options that may differ between machines: paths, device, number of decoder processes."""
    names = ("data", "weights", "device", "workers", "trust_pickle")
    local = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    for name in ("data", "weights"):
        if name in local and (name == "data" or is_weights_file(local[name])):
            local[name] = os.path.abspath(local[name])
    return local
