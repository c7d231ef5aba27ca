"""The course of a search: features, trials, and the best of them made ready to ship."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tlkit.data.folder import Dataset
from tlkit.errors import DONE, SOME_INPUTS_FAILED, DataError, TlkitError, UnavailableError, to_tlkit_error
from tlkit.files.run_folder import RunFolder
from tlkit.interruption import Interrupted, Interruption
from tlkit.model.backbones import find_backbone
from tlkit.model.files import write_model
from tlkit.model.open import open_model
from tlkit.options import FinetuneOptions, TuneOptions
from tlkit.options.space import described
from tlkit.options.tune import cores
from tlkit.reports.gather import report
from tlkit.runs.checkpoints import read_checkpoint
from tlkit.terminal import count, log_status, write_stdout
from tlkit.tuning.cluster import as_in_trials, choose_gpus, connected, gpu_share, require_resources, where
from tlkit.tuning.folder import SearchFolder
from tlkit.tuning.leaderboard import Display
from tlkit.tuning.prepare import Key, network_key, prepare
from tlkit.tuning.results import ENDED, Table
from tlkit.tuning.samplers import Points, SeededSampler, points_of
from tlkit.tuning.state import OngoingSearch, missing, take_ended


def run_search(search: SearchFolder, options: TuneOptions, dataset: Dataset, signals: Interruption) -> int:
    """Try what has not been tried. Prints the path of the best trial's run folder; returns the exit status."""
    table = Table.read(search, options.metric)
    with recorded_in_status(search, table, options.trials()):
        require_backbones(options)
        take_ended(search, table, options, len(dataset.val))
        waiting = missing(table, options.trials())
        log_status(
            "search", f"{count(options.trials(), 'trial')}, {options.method}: {', '.join(options.tried.dimensions)}"
        )
        if waiting:
            run_trials(search, options, table, dataset, signals)
        return conclude(search, options, table)


def run_trials(
    search: SearchFolder, options: TuneOptions, table: Table, dataset: Dataset, signals: Interruption
) -> None:
    """Train the trials that have not ended. Raises Interrupted."""
    points = points_of(options.tried, options.method, options.seed, len(table.rows))
    for row in table.rows.values():
        if row.has_ended():
            points.tell(row, row.value(options.metric))
    gpus, cpus = choose_gpus(options), options.cpus_per_trial or 1
    resources = {"cpu": float(cpus), "gpu": gpu_share(options, gpus, cpus)}
    options = as_in_trials(options, resources["gpu"])
    coming = list(coming_trials(options, table, points))
    display = Display(table, options.trials())
    with connected(options.cluster, cores(), gpus) as ray:
        from tlkit.tuning import ray_tune

        require_resources(ray, options, resources)
        log_status("Ray", where(ray, options))
        prepared = prepare(coming, known_speeds(options, table), dataset, signals)
        longest = max(trial.planned_epochs() for trial in coming)
        grace = options.grace(longest)
        halts = ray_tune.halts(longest, grace, options.reduction_factor) if options.stops else []
        ongoing = OngoingSearch(search, options, table, points, prepared, halts, len(dataset.val), display)
        ended = {number for number, row in table.rows.items() if row.has_ended()}
        scheduler = (
            ray_tune.asha(ongoing, ended, longest=longest, grace=grace, reduction=options.reduction_factor)
            if options.stops
            else ray_tune.no_scheduler()
        )
        with signals.deferred("stopping the trials; they go on where they are when the search is resumed"):
            ray_tune.run_by_ray(
                ongoing,
                signals,
                display.redraw,
                trials=len(ongoing.waiting),
                scheduler=scheduler,
                resources=resources,
                scratch=search.scratch,
                seconds=options.time_budget,
            )
    display.clear()


def known_speeds(options: TuneOptions, table: Table) -> dict[Key, float]:
    """What was measured before the search was stopped."""
    rows = table.rows.values()
    return {network_key(options.trial(r.options)): r.images_per_second for r in rows if r.images_per_second is not None}


def coming_trials(options: TuneOptions, table: Table, points: Points) -> Iterator[FinetuneOptions]:
    """The trials that will be trained, or where that is not known beforehand, those at the corners of the space."""
    if not isinstance(points, SeededSampler):
        yield from (options.trial(point) for point in options.tried.corners())
        return
    for number in missing(table, options.trials()):
        row = table.rows.get(number)
        yield options.trial(row.options if row else points.point(number))


def require_backbones(options: TuneOptions) -> None:
    """Raises UsageError for a backbone that nobody knows, before any is loaded."""
    for name in {options.trial(point).backbone for point in options.tried.corners()}:
        find_backbone(name)


@contextmanager
def recorded_in_status(search: SearchFolder, table: Table, trials: int) -> Iterator[None]:
    """Keep in status.json how the search stands, and how it ended; whichever way it ends, the tables are whole."""

    def record(state: str, **facts: Any) -> None:
        done: dict[str, Any] = {"trials": trials, "ended": table.count(*ENDED), "failed": table.count("failed")}
        with suppress(TlkitError):
            if table.rows:
                table.write_lines()
                table.write_csv()
            search.own.write_status(state, **facts, **done)

    record("running")
    try:
        yield
    except Exception as error:
        known = to_tlkit_error(error)
        record("failed", exit_code=known.exit_code, error=str(known))
        raise
    except Interrupted as interrupted:
        record("interrupted", exit_code=128 + interrupted.number)
        log_status("stopped", f"go on with: tlkit resume {search.path}")
        raise
    left = trials - table.count(*ENDED)
    status = SOME_INPUTS_FAILED if table.count("failed") else DONE
    record("interrupted" if left else "finished", exit_code=status)


def conclude(search: SearchFolder, options: TuneOptions, table: Table) -> int:
    """Show the table, and make the best trial a model. Returns the exit status."""
    Display(table, options.trials()).conclude()
    failed = [row for row in table.ranked() if row.state == "failed"]
    best = table.best()
    if best is None:
        if failed:
            hint = f"Try once more: tlkit resume {search.path}" if any(row.passing for row in failed) else ""
            raise DataError(search.path, f"every trial failed; the first: {failed[0].error}", hint)
        raise UnavailableError(search.path, "no trial ended within --time-budget", f"tlkit resume {search.path}")
    left = options.trials() - table.count(*ENDED)
    again = sum(row.passing for row in failed)
    if again:
        log_status(
            "again",
            f"{count(again, 'trial')} failed for a reason that may pass; try once more: tlkit resume {search.path}",
        )
    if left:
        log_status("stopped", f"by --time-budget, {count(left, 'trial')} left; go on with: tlkit resume {search.path}")
    run = search.trial(best.trial)
    ship(run, options)
    for row in failed[:3]:
        log_status("failed", f"trial {row.trial} ({described(row.options)}): {row.error}")
    log_status("best", f"trial {best.trial}: {described(best.options)}")
    log_status("results", f"{search.results_table}, {search.results_lines}")
    log_status("next", f"tlkit predict {run.path} IMAGE...")
    write_stdout(os.fsencode(f"{run.path}\n"))
    return SOME_INPUTS_FAILED if failed else DONE


def ship(run: RunFolder, options: TuneOptions) -> None:
    """Write the best trial's model and report: of the others, the checkpoint of their best epoch says as much, and
    `tlkit report` shows any of them."""
    report(run)
    if not os.path.exists(run.model_file):
        model = open_model(run.best_checkpoint, None, options.trust_pickle)
        write_model(run.model_file, model, read_checkpoint(run.best_checkpoint)["progress"]["best"])
