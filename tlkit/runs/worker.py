"""Training on ranks other than 0. They receive the plan from rank 0 and write no files."""

from __future__ import annotations

from tlkit import interruption
from tlkit.distributed.join import joined
from tlkit.errors import DONE
from tlkit.options import FinetuneOptions, ResumeOptions
from tlkit.runs.consistency import require_same_options
from tlkit.runs.plan import receive_plan
from tlkit.runs.resume_options import given_values
from tlkit.runs.session import prepared
from tlkit.runs.train_loop import train_without_saving

LOCAL = ("data", "root", "weights", "device", "workers", "trust_pickle")
"""Options that may differ between machines: paths, device, number of decoder processes."""


def run_worker(options: FinetuneOptions | ResumeOptions) -> int:
    """Take part in a run that rank 0 starts or resumes. Returns the exit status."""
    with interruption.handled() as signals, joined(options) as world:
        require_same_options(options, world)
        plan = receive_plan(given_values(options, LOCAL), world)
        if plan is None:
            return DONE
        with prepared(plan, signals, world) as session:
            if plan.options.feeds_images():
                train_without_saving(session)
    return DONE
