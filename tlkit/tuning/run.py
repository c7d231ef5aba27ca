"""Run a search: compute features, run the trials, write the model of the best one."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from functools import partial

from tlkit.data.folder import Dataset
from tlkit.errors import DONE, SOME_INPUTS_FAILED, DataError, TlkitError, UnavailableError, to_tlkit_error
from tlkit.features.run_model import write_onnx_model
from tlkit.files.run_folder import RunFolder
from tlkit.interruption import Interrupted, Interruption
from tlkit.model.backbones import find_backbone
from tlkit.model.files import LoadedModel, write_model
from tlkit.model.open import restore_classifier
from tlkit.options import FinetuneOptions, TuneOptions
from tlkit.options.space import described
from tlkit.options.tune import cores
from tlkit.reports.gather import report
from tlkit.runs.checkpoints import read_checkpoint
from tlkit.terminal import count, log_status, print_error, write_stdout
from tlkit.tuning import cluster
from tlkit.tuning.driver import Watch, run_in_driver
from tlkit.tuning.leaderboard import leaderboard
from tlkit.tuning.prepare import network_key, prepare
from tlkit.tuning.results import ENDED, Table
from tlkit.tuning.samplers import Sampler, SeededSampler, make_sampler
from tlkit.tuning.search_folder import SearchFolder
from tlkit.tuning.state import OngoingSearch, missing, record_ended


def run_search(search: SearchFolder, options: TuneOptions, dataset: Dataset, signals: Interruption) -> int:
    """Run the missing trials. Prints the path of the best trial's run folder; returns the exit status."""
    table = Table.read(search, options.metric)
    with recorded_in_status(search, table, options.trials()):
        for name in {options.trial(point).backbone for point in options.tried.corners()}:
            find_backbone(name)  # raises UsageError for an unknown name
        record_ended(table, options, len(dataset.val))
        tried = ", ".join(options.tried.dimensions)
        log_status("search", f"{count(options.trials(), 'trial')}, {options.method}: {tried}")
        if missing(table, options.trials()):
            try:
                hint = f"Resume with: {search.resume_command}"
                run_in_driver(partial(run_trials, table, options, dataset), signals, hint)
            finally:
                table.rows = Table.read(search, options.metric).rows
        return conclude(table, options)


def run_trials(table: Table, options: TuneOptions, dataset: Dataset, signals: Interruption, watch: Watch) -> None:
    """Train the trials that have not ended; their table is on disk afterwards. Raises Interrupted."""
    sampler = make_sampler(options.tried, options.method, options.seed, len(table.rows))
    for row in table.rows.values():
        if row.has_ended():
            sampler.tell(row, row.objective(options.metric))
    gpus, cpus = cluster.usable_gpus(options), options.cpus_per_trial or 1
    resources = {"cpu": float(cpus), "gpu": cluster.gpu_share(options, gpus, cpus)}
    options = cluster.with_trial_device(options, resources["gpu"])
    planned = list(planned_trials(options, table, sampler))
    longest = max(trial.planned_epochs() for trial in planned)
    with cluster.ray_session(options.cluster, cores(), gpus, watch) as ray:
        from tlkit.tuning.ray_tune import decision_epochs, make_scheduler, run_by_ray

        cluster.require_resources(ray, resources, options.cluster)
        known = [row for row in table.rows.values() if row.images_per_second is not None]  # before a resume
        speeds = {network_key(options.trial(row.options)): row.images_per_second for row in known}
        prepared = prepare(planned, speeds, dataset, signals)
        decisions = decision_epochs(longest, options.grace(longest), options.reduction_factor) if options.stops else []
        ongoing = OngoingSearch(options, table, sampler, prepared, decisions, len(dataset.val))
        message = "stopping the trials; they continue when the search is resumed"
        try:
            # Ray prints its own text to sys.stderr when a server dies; tlkit writes to the descriptor.
            with signals.deferred(message), open(os.devnull, "w") as null, redirect_stderr(null):
                run_by_ray(ongoing, make_scheduler(ongoing, longest), signals, resources)
        finally:
            ongoing.display.clear()
            table.put()  # with the newest figures of trials that were stopped


def planned_trials(options: TuneOptions, table: Table, sampler: Sampler) -> Iterator[FinetuneOptions]:
    """The trials that will run; for a sampler that decides later, the corners of the space."""
    if not isinstance(sampler, SeededSampler):
        yield from (options.trial(point) for point in options.tried.corners())
        return
    for number in missing(table, options.trials()):
        row = table.rows.get(number)
        yield options.trial(row.options if row else sampler.point(number))


@contextmanager
def recorded_in_status(search: SearchFolder, table: Table, trials: int) -> Iterator[None]:
    """Record the state of the search in status.json, and write complete tables however the block ends."""

    def record(state: str, exit_code: int | None = None, error: str | None = None) -> None:
        ended, failed = table.count(*ENDED), table.count("failed")
        with suppress(TlkitError):
            if table.rows:
                table.put()
                table.write_csv()
            search.own.write_status(state, exit_code, error, trials=trials, ended=ended, failed=failed)

    record("running")
    try:
        yield
    except Exception as error:
        known = to_tlkit_error(error)
        record("failed", known.exit_code, str(known))
        raise
    except Interrupted as interrupted:
        record("interrupted", 128 + interrupted.number)
        log_status("stopped", f"resume with: {search.resume_command}")
        raise
    left = trials - table.count(*ENDED)
    status = SOME_INPUTS_FAILED if table.count("failed") else DONE
    record("interrupted" if left else "finished", status)


def conclude(table: Table, options: TuneOptions) -> int:
    """Print the table and write the best trial's model. Returns the exit status."""
    search = table.search
    print_error(*leaderboard(table))
    failed = [row for row in table.ranked() if row.state == "failed"]
    transient = sum(row.is_transient for row in failed)
    best = table.best()
    if best is None and failed:
        hint = f"Retry with: {search.resume_command}" if transient else ""
        raise DataError(search.path, f"all trials failed; the first with: {failed[0].error}", hint)
    if best is None:
        hint = f"Continue with: {search.resume_command}"
        raise UnavailableError(search.path, "no trial ended within --time-budget", hint)
    if transient:
        reason = "failed for a reason that may be temporary"
        log_status("retry", f"{count(transient, 'trial')} {reason}; retry with: {search.resume_command}")
    if left := options.trials() - table.count(*ENDED):
        problem = f"--time-budget is over, {count(left, 'trial')} left"
        log_status("stopped", f"{problem}; continue with: {search.resume_command}")
    run = search.trial(best.trial)
    write_best_model(run, options)
    for row in failed[:3]:
        log_status("failed", f"trial {row.trial} ({described(row.options)}): {row.error}")
    log_status("best", f"trial {best.trial}: {described(best.options)}")
    log_status("results", f"{search.results_table}, {search.results_lines}")
    log_status("next", f"tlkit predict {shlex.quote(run.path)} IMAGE...")
    write_stdout(os.fsencode(f"{run.path}\n"))
    return SOME_INPUTS_FAILED if failed else DONE


def write_best_model(run: RunFolder, options: TuneOptions) -> None:
    """Write model and report of the best trial. Other trials keep their checkpoint; `tlkit report` works on any."""
    report(run)
    if not os.path.exists(run.model_file):
        checkpoint = read_checkpoint(run.best_checkpoint)
        restored = restore_classifier(run.best_checkpoint, checkpoint.to_dict(), None, options.trust_pickle)
        classifier, description = restored.classifier, restored.description
        assert checkpoint.best is not None, "a checkpoint of the best epoch names it"
        model = LoadedModel(classifier.to_plain_network(), description)
        write_model(run.model_file, model, checkpoint.best.to_dict(), run.root)
        write_onnx_model(run, restored.options, classifier, description)
