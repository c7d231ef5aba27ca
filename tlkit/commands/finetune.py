"""tlkit finetune: train a classifier on a folder of images."""

from __future__ import annotations

import os

from tlkit import interruption
from tlkit.data.bad_images import check_images
from tlkit.data.scan import log_dataset
from tlkit.data.sources import find_training_set, require_data
from tlkit.devices.request import require_devices
from tlkit.distributed.env import is_nonzero_rank
from tlkit.distributed.failures import write_note
from tlkit.distributed.join import joined
from tlkit.distributed.launch import is_for_ranks, launch
from tlkit.files.inputs import require_weights_file
from tlkit.files.new_run import create_run_folder, default_run_folder
from tlkit.monitoring.monitor import require_installed
from tlkit.options import FinetuneOptions, ResumeOptions
from tlkit.runs.consistency import require_same_options
from tlkit.runs.reopen import reopen, run_before_restart


def finetune(options: FinetuneOptions) -> int:
    """Train a new run. Prints the path of its model; returns the exit status.

    The run folder is created and the data are checked before torch is loaded, which takes seconds. Among several
    ranks, rank 0 does this and the others wait for its plan.
    """
    require_installed(options.sinks())
    require_data(options.data)
    require_weights_file(options.weights)
    if is_for_ranks(options.processes):
        return launch("finetune", options, options.device, options.processes, options.max_restarts)
    if is_nonzero_rank():
        from tlkit.runs.worker import run_worker

        return run_worker(options)
    earlier = run_before_restart()
    if earlier is not None:
        return reopen(earlier, ResumeOptions(checkpoint=earlier.path, trust_pickle=options.trust_pickle), options)
    with (
        create_run_folder(options.out, default_run_folder(options)) as run,
        interruption.handled("stopping") as signals,
        joined(options) as world,
    ):
        write_note("run", os.path.abspath(run.path))
        require_same_options(options, world)
        dataset = find_training_set(options)
        log_dataset(dataset)
        require_devices(options.device_spec())
        dataset = check_images(options, dataset)
        from tlkit.runs.train import start_run

        return start_run(run, options, dataset, signals, world)
