"""The state of a search without Ray: which trial is next, how trials end, and what a resumed search still has to do."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tlkit.commands.tune import with_absolute_paths, write_space
from tlkit.data.folder import Dataset, Sample
from tlkit.data.splitting import folds_of
from tlkit.errors import DataError, OutputError, StorageError, UsageError
from tlkit.interruption import Interruption
from tlkit.model.backbones import build_network, find_backbone
from tlkit.model.classifier import build_classifier
from tlkit.options import TuneOptions
from tlkit.runs.train_loop import train_and_save
from tlkit.training.history import EpochRow
from tlkit.training.metrics import METRICS
from tlkit.tuning import reaper
from tlkit.tuning.cluster import with_trial_device
from tlkit.tuning.leaderboard import leaderboard
from tlkit.tuning.prepare import Network, Prepared, features_key, network_key
from tlkit.tuning.results import Table, Trial, mean_and_error
from tlkit.tuning.samplers import OptunaSampler, SeededSampler
from tlkit.tuning.search_folder import SearchFolder, new_search_folder
from tlkit.tuning.start import read_options, write_options
from tlkit.tuning.state import OngoingSearch, missing, record_ended
from tlkit.tuning.trial import TrialReporter, outcome_of_trial, run_trial


def tune(*tries: str, **options: Any) -> TuneOptions:
    return TuneOptions(data="photos", try_=list(tries), **options)


def send_nothing(report: Mapping[str, Any]) -> None:
    """In the place of Ray's report."""


def epoch(number: int, accuracy: float, loss: float = 0.5) -> dict[str, Any]:
    return {"epoch": number, "val_accuracy": accuracy, "val_macro_f1": accuracy, "val_loss": loss}


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    search = SearchFolder(str(tmp_path / "search"))
    os.makedirs(search.trials)
    return search


def ongoing(folder: SearchFolder, options: TuneOptions, reports: tuple[int, ...] = (2, 6)) -> OngoingSearch:
    table = Table.read(folder, options.metric)
    sampler = SeededSampler(options.tried, options.method, options.seed)
    return OngoingSearch(options, table, sampler, Prepared(), list(reports), 100)


def write_run(search: OngoingSearch, number: int, accuracies: list[float], state: str = "running") -> None:
    """A trial's run folder after so many epochs."""
    run = search.folder.trial(number)
    os.makedirs(run.path, exist_ok=True)
    rows = [epoch(place, accuracy) for place, accuracy in enumerate(accuracies, 1)]
    run.write_history(rows)
    run.write_status(state, epoch=len(rows), best=max(rows, key=lambda row: row["val_accuracy"]))


def test_a_point_depends_on_the_seed_and_its_number_alone() -> None:
    space = tune("learning_rate=uniform:0:1", "backbone=grid:a,b").tried
    first, second = SeededSampler(space, "random", 0), SeededSampler(space, "random", 0)
    assert [first.point(n) for n in range(1, 9)] == [second.point(n) for n in range(8, 0, -1)][::-1]
    assert SeededSampler(space, "random", 1).point(1) != first.point(1)


def test_each_backbone_on_a_grid_is_tried_with_the_same_samples() -> None:
    points = SeededSampler(tune("learning_rate=uniform:0:1", "backbone=grid:a,b").tried, "random", 0)
    found = [points.point(number) for number in range(1, 7)]
    assert [point["backbone"] for point in found] == ["a", "b"] * 3
    rates = [point["learning_rate"] for point in found]
    assert rates[::2] == rates[1::2] and len(set(rates)) == 3


def test_optuna_learns_from_earlier_trials_and_draws_new_points() -> None:
    pytest.importorskip("optuna")
    space = tune("learning_rate=uniform:0:1", "unfreeze=choice:default,layer4", "epochs=randint:3:9").tried
    fresh = OptunaSampler(space, 0, 0)
    begun = [fresh.point(number) for number in (1, 2)]
    assert begun == [OptunaSampler(space, 0, 0).point(1), begun[1]]
    again = OptunaSampler(space, 0, 2)
    for number, point in enumerate(begun, 1):
        again.tell(Trial(number, point), 0.5)
    again.tell(Trial(3, begun[0]), None)
    assert len(again.study.trials) == 2
    again.tell(Trial(3, begun[0], "stopped", epochs=5), 0.99)
    again.point(5)
    again.tell(Trial(5, begun[0], "stopped", epochs=5), 0.98)
    assert [t.state.name for t in again.study.trials] == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    assert again.study.best_value == 0.5
    assert again.point(4) not in begun
    assert all(3 <= point["epochs"] <= 9 and point["unfreeze"] in (None, "layer4") for point in begun)


def test_a_trial_is_on_disk_before_it_starts_and_resumes_with_its_point(folder: SearchFolder) -> None:
    options = tune("learning_rate=uniform:0:1", samples=3)
    search = ongoing(folder, options)
    first, second = search.next_assignment(), search.next_assignment()
    assert first is not None and second is not None
    search.stopped.add(2)
    write_run(search, 2, [0.5, 0.75])
    search.conclude(2, {"seconds": 1.5, "node": "n"})

    later = ongoing(folder, options)
    assert later.waiting == [1, 3]
    again = later.next_assignment()
    assert again is not None and (again.number, again.point, again.run) == (1, first.point, first.run)
    third = later.next_assignment()
    assert third is not None and third.number == 3 and later.next_assignment() is None


@pytest.mark.parametrize("metric", METRICS)
def test_a_search_ranks_stores_and_shows_every_metric(metric: str, tmp_path: Path) -> None:
    folder = SearchFolder(str(tmp_path))
    table = Table(folder, metric)
    for number, value in enumerate((0.25, 0.75), 1):
        figures = dict.fromkeys(METRICS, 0.5) | {metric: value}
        table.put(Trial(number, {"epochs": number}, "finished", figures=figures))
    best = table.best()
    assert best is not None and best.trial == (2 if METRICS[metric].larger_is_better else 1)
    assert Table.read(folder, metric).rows == table.rows
    table.write_csv()
    assert metric in Path(folder.results_table).read_text().splitlines()[0].split(",")
    assert METRICS[metric].label in leaderboard(table)[0]


def test_results_without_later_metrics_open(tmp_path: Path) -> None:
    folder = SearchFolder(str(tmp_path))
    Table(folder, "accuracy").put(Trial(1, {}, "finished", figures={"accuracy": 0.5, "macro_f1": 0.5, "loss": 1.0}))
    path = Path(folder.results_lines)
    row = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in row.items() if name != "top5_accuracy"}) + "\n")
    assert Table.read(folder, "accuracy").rows[1].figures == {"accuracy": 0.5, "macro_f1": 0.5, "loss": 1.0}


def test_how_trials_end(folder: SearchFolder) -> None:
    search = ongoing(folder, tune("learning_rate=uniform:0:1", samples=4))
    for number in (1, 2, 3, 4):
        search.next_assignment()
        write_run(search, number, [0.5, 0.25 * number, 0.1])
    search.conclude(1, {"ended": True})
    search.stopped.add(2)
    search.conclude(2, {})
    search.conclude(3, {"ended": True, "error": "no such module"})
    search.conclude(4, {})  # --time-budget was over
    rows = Table.read(folder, "accuracy").rows
    assert {n: row.state for n, row in rows.items()} == {1: "finished", 2: "stopped", 3: "failed", 4: "running"}
    assert (rows[1].figures["accuracy"], rows[1].epoch, rows[1].epochs) == (0.5, 1, 3)
    assert rows[3].error == "no such module"
    assert search.table.best() == rows[1]
    assert missing(search.table, 4) == [4]


def test_a_run_that_ended_after_the_search_was_killed_is_not_trained_again(folder: SearchFolder) -> None:
    options = tune("learning_rate=uniform:0:1", samples=3, epochs=3)
    search = ongoing(folder, options)
    for number, epochs in ((1, 3), (2, 2), (3, 1)):
        search.next_assignment()
        write_run(search, number, [0.5] * epochs, "finished" if number < 3 else "running")
    record_ended(search.table, options, 100)
    assert {n: row.state for n, row in search.table.rows.items()} == {1: "finished", 2: "stopped", 3: "running"}


def test_the_last_epoch_of_a_trial_is_not_a_decision_epoch(folder: SearchFolder) -> None:
    search = ongoing(folder, tune("epochs=grid:6,7", scheduler="asha"), reports=(2, 6))
    asked = [
        assignment.report_epochs for assignment in (search.next_assignment(), search.next_assignment()) if assignment
    ]
    assert asked == [[2], [2, 6]]


def test_the_scheduler_gets_the_reports_of_before_the_resume(folder: SearchFolder) -> None:
    search = ongoing(folder, tune("learning_rate=uniform:0:1", samples=2))
    search.next_assignment()
    write_run(search, 1, [0.2, 0.4, 0.3, 0.3, 0.3, 0.6, 0.9])
    assert search.past_reports() == {1: [{"epoch": 2, "objective": 0.4}, {"epoch": 6, "objective": 0.6}]}


def test_a_resumed_trial_reports_its_current_epoch_again(folder: SearchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decision of the scheduler may be lost, so it is asked again before the next epoch."""
    search = ongoing(folder, tune("learning_rate=uniform:0:1", samples=2))
    assignment = search.next_assignment()
    assert assignment is not None
    write_run(search, 1, [0.2] * 6)
    assert search.past_reports() == {1: [{"epoch": 2, "objective": 0.2}]}
    search.stopped.add(1)
    search.conclude(1, {})
    assert [report["epoch"] for report in search.past_reports()[1]] == [2, 6]

    monkeypatch.setattr("tlkit.runs.train_loop.run_loop", lambda *arguments: trained.append(1))
    trained, told = list[int](), list[dict[str, Any]]()

    def stop(figures: dict[str, Any]) -> None:
        told.append(figures)
        raise SystemExit

    for state in (
        SimpleNamespace(epoch=6, best=EpochRow.from_dict(epoch(6, 0.2))),
        SimpleNamespace(epoch=0, best=None),
    ):
        policy = SimpleNamespace(observer=TrialReporter(assignment, stop))
        session: Any = SimpleNamespace(setup=SimpleNamespace(state=state), signals=Interruption())
        observer: Any = SimpleNamespace(policy=policy, run=None, peaks=SimpleNamespace(say=lambda: None))
        train_and_save(session, observer)
    assert [figures["epoch"] for figures in told] == [6] and trained == [1]


def test_a_trial_stopped_before_the_kill_needs_no_folds(folder: SearchFolder) -> None:
    options = tune("learning_rate=uniform:0:1", samples=2, epochs=3, folds=2)
    search = ongoing(folder, options)
    for number, epochs in ((1, 3), (2, 2)):
        search.next_assignment()
        write_run(search, number, [0.5] * epochs, "finished")
    record_ended(search.table, options, 100)
    assert {n: row.state for n, row in search.table.rows.items()} == {1: "running", 2: "stopped"}


def test_the_best_comes_first_and_failures_last(folder: SearchFolder) -> None:
    table = Table(folder, "accuracy")
    for number, (state, accuracy, loss) in enumerate(
        [("finished", 0.9, 0.3), ("failed", None, None), ("stopped", 0.9, 0.2), ("finished", 0.5, 0.1)], 1
    ):
        table.rows[number] = Trial(
            number, {"epochs": number}, state, figures={"accuracy": accuracy, "macro_f1": 0.5, "loss": loss}
        )
    assert [row.trial for row in table.ranked()] == [3, 1, 4, 2]
    assert [row.trial for row in Table(folder, "loss", table.rows).ranked()] == [4, 3, 1, 2]
    assert [line.split()[0] for line in leaderboard(table, 2)] == ["trial", "3", "1", "and"]


def test_the_mean_over_folds_ranks_before_one_split(folder: SearchFolder) -> None:
    table = Table(folder, "accuracy")
    table.rows[1] = Trial(1, {}, "finished", figures={"accuracy": 0.9, "macro_f1": 0.9, "loss": 0.3}, mean_accuracy=0.7)
    table.rows[2] = Trial(
        2, {}, "finished", figures={"accuracy": 0.8, "macro_f1": 0.8, "loss": 0.3}, mean_accuracy=0.75
    )
    table.rows[3] = Trial(
        3, {}, "stopped", figures={"accuracy": 0.99, "macro_f1": 0.9, "loss": 0.1}
    )  # lucky on the one division
    table.rows[4] = Trial(4, {}, "failed")
    assert [row.trial for row in table.ranked()] == [2, 1, 3, 4]
    assert table.best() == table.rows[2]
    mean, error = mean_and_error([0.5, 0.7, 0.9])
    assert mean == pytest.approx(0.7) and error == pytest.approx(0.2 / 3**0.5)


def test_results_are_written_as_json_lines_and_csv(folder: SearchFolder) -> None:
    table = Table(folder, "accuracy")
    table.put(Trial(1, {"unfreeze": "layer4,fc"}, "failed", error="line\nbreak"))
    table.put(Trial(2, {"unfreeze": None}, "finished", figures={"accuracy": 0.5, "macro_f1": 0.5, "loss": 0.1}))
    table.write_csv()
    with open(folder.results_lines) as file:
        assert [json.loads(line)["options"] for line in file] == [{"unfreeze": "layer4,fc"}, {"unfreeze": None}]
    with open(folder.results_table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["trial"], row["unfreeze"], row["error"]) for row in rows] == [
        ("2", "", ""),
        ("1", "layer4,fc", "line\nbreak"),
    ]
    assert Table.read(folder, "accuracy").rows == table.rows


def test_results_of_older_versions_open(folder: SearchFolder) -> None:
    row = {"trial": 1, "options": {"epochs": 3}, "state": "failed", "error": "no space left", "passing": True}
    Path(folder.results_lines).write_text(json.dumps(row) + "\n")
    table = Table.read(folder, "accuracy")
    assert table.rows[1].is_transient and missing(table, 1) == [1]
    table.put(table.rows[1])
    assert json.loads(Path(folder.results_lines).read_text())["passing"] is True


def test_a_damaged_table_is_refused(folder: SearchFolder) -> None:
    Table(folder, "accuracy").put(Trial(1, {}))
    with open(folder.results_lines, "a") as file:
        file.write('{"trial": 2, "opt')
    with pytest.raises(DataError):
        Table.read(folder, "accuracy")


def test_a_folder_with_a_search_or_a_run_is_refused(tmp_path: Path) -> None:
    for name in ("search.json", "options.json"):
        taken = tmp_path / name.partition(".")[0]
        taken.mkdir()
        (taken / name).write_text("{}")
        with pytest.raises(OutputError), new_search_folder(str(taken), "unused"):
            pass
        assert [entry.name for entry in taken.iterdir()] == [name]


def test_a_search_that_fails_before_it_starts_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError), new_search_folder(str(tmp_path / "a" / "b"), "unused"):
        raise DataError("photos", "no image")
    assert not (tmp_path / "a").exists()


def test_trials_with_the_same_features_share_a_key() -> None:
    options = tune("learning_rate=uniform:0:1")
    same = [options.trial({"learning_rate": 0.1}), options.trial({"learning_rate": 0.2, "seed": 3})]
    other = options.trial({"learning_rate": 0.1, "augment": "light"})
    assert len(set(map(features_key, same))) == 1
    assert features_key(other) not in map(features_key, same)
    assert network_key(other) == network_key(same[0])
    heads = [options.trial({"head": "mlp", "hidden": width}) for width in (64, 128)]
    assert set(map(features_key, heads)) == {features_key(same[0])}
    assert features_key(options.trial({"head": "stack"})) != features_key(same[0])


def test_folds_hold_each_image_in_validation_once() -> None:
    samples = [Sample(f"/photos/{label}/{n}", label) for label, size in ((0, 7), (1, 4)) for n in range(size)]
    folds = folds_of(Dataset("/photos", ("a", "b"), samples[::2], samples[1::2], ""), 3, 0)
    assert sorted(s for fold in folds for s in fold.val) == samples
    for fold in folds:
        assert sorted(fold.train + fold.val) == samples
        assert 2 <= sum(s.label == 0 for s in fold.val) <= 3 and 1 <= sum(s.label == 1 for s in fold.val) <= 2
    swapped = folds_of(Dataset("/photos", ("a", "b"), samples[1::2], samples[::2], ""), 3, 0)
    assert [set(fold.val) for fold in swapped] == [set(fold.val) for fold in folds]


def test_the_reaper_kills_the_processes_of_a_killed_search_only(tmp_path: Path) -> None:
    """A search that starts a process, which starts another, and is killed."""
    scratch = tmp_path / "ray"
    scratch.mkdir()
    code = (
        "import os, subprocess, sys, time\n"
        "marker, folder = sys.argv[1:]\n"
        f"reaping = subprocess.Popen([sys.executable, '-I', '-S', {reaper.__file__!r}, marker, folder],"
        " stdin=subprocess.PIPE, start_new_session=True)\n"
        "shell = 'sleep 300 & sleep 300'\n"
        f"subprocess.Popen(['sh', '-c', shell], env={{**os.environ, {reaper.MARKER_VARIABLE!r}: marker}},"
        " start_new_session=True)\n"
        "print(reaping.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    marker = f"test-{os.getpid()}"
    bystander = subprocess.Popen(["sleep", "300"], env={**os.environ, reaper.MARKER_VARIABLE: f"{marker}0"})
    search = subprocess.Popen([sys.executable, "-c", code, marker, str(scratch)], stdout=subprocess.PIPE)
    assert search.stdout is not None
    reaping = int(search.stdout.readline())
    try:
        wait_until(lambda: len(reaper.processes_with_marker(marker)) == 3)
        os.kill(search.pid, signal.SIGKILL)
        search.wait()
        wait_until(lambda: not reaper.processes_with_marker(marker))
        wait_until(lambda: not scratch.exists())
        wait_until(lambda: not Path(f"/proc/{reaping}/exe").exists())
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
        search.stdout.close()


def wait_until(condition: Any, seconds: float = 60) -> None:
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.02)


@pytest.mark.parametrize(("head", "hidden"), [("linear", None), ("mlp", None), ("mlp", 7), ("stack", None)])
def test_parameters_of_a_head_that_was_not_built_are_counted(head: str, hidden: int | None) -> None:
    name = find_backbone("timm/test_resnet")
    classifier = build_classifier(name, build_network(name, 5, None), 5, head, hidden, None)
    backbone = sum(parameter.numel() for parameter in classifier.backbone.parameters())
    network = Network(1.0, backbone, len(classifier.head.mean), True, 5)
    assert network.parameters_with(head, hidden) == sum(parameter.numel() for parameter in classifier.parameters())


def test_trials_without_a_gpu_are_prepared_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    settled = with_trial_device(tune("learning_rate=uniform:0:1"), 0.0)
    assert (settled.device, settled.precision) == ("cpu", "fp32")
    assert with_trial_device(tune("precision=grid:fp32,bf16"), 0.0).precision == "auto"
    with pytest.raises(UsageError, match="--device cuda: does not go with --gpus-per-trial 0"):
        with_trial_device(tune("learning_rate=uniform:0:1", device="cuda"), 0.0)


def test_features_that_trials_look_up_must_be_computable_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="--gpus-per-trial 1: needs a GPU on this machine too"):
        with_trial_device(tune("learning_rate=uniform:0:1"), 1.0)
    assert with_trial_device(tune("learning_rate=uniform:0:1", no_cache=True), 1.0).device == "auto"


def test_trials_use_the_backend_of_the_features(folder: SearchFolder) -> None:
    options = tune("learning_rate=uniform:0:1", cpus_per_trial=3)
    search = ongoing(folder, options)
    search.prepared.backends[features_key(options.trial({}))] = "onnxruntime"
    first = search.next_assignment()
    assert first is not None and (first.options["engine"], first.options["workers"]) == ("onnxruntime", 3)


def test_a_search_can_be_resumed_from_any_folder(folder: SearchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.path)
    options = TuneOptions(data="photos", weights="w.pth", trust_pickle="w.pth", try_=["weight_decay=uniform:0:1"])
    with pytest.raises(UsageError, match="--weights: has one value"):
        tune("weights=choice:a.pth,none", weights="w.pth")
    write_space(folder, options)
    resolved = with_absolute_paths(options, folder)
    write_options(folder, options, resolved)
    assert (resolved.weights, resolved.trust_pickle) == (os.path.abspath("w.pth"), os.path.abspath("w.pth"))
    monkeypatch.chdir("/")
    assert read_options(folder, {}) == dataclasses.replace(resolved, trust_pickle=None)


def test_fewer_samples_than_before_are_refused(folder: SearchFolder) -> None:
    options = tune("learning_rate=uniform:0:1", "backbone=grid:a,b")
    write_space(folder, options)
    write_options(folder, options, with_absolute_paths(options, folder))
    assert read_options(folder, {"samples": 21}).trials() == 42
    with pytest.raises(UsageError, match="--samples 10: makes 20 trials, fewer than the 40 that the search has"):
        read_options(folder, {"samples": 10})


def test_a_resumed_trial_trusts_the_same_file(folder: SearchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    search = ongoing(folder, tune("learning_rate=uniform:0:1", trust_pickle="/w.pth"))
    assignment = search.next_assignment()
    assert assignment is not None
    write_run(search, 1, [0.5])
    Path(assignment.run, "options.json").write_text("{}")
    trusted: list[str | None] = []
    monkeypatch.setattr("tlkit.tuning.trial.read_dataset", lambda options: None)
    monkeypatch.setattr(
        "tlkit.tuning.trial.resume_in_place",
        lambda run, options, *rest: trusted.append(options.trust_pickle),
    )
    run_trial(assignment, TrialReporter(assignment, send_nothing))
    assert trusted == ["/w.pth"]


def test_a_transient_failure_is_retried(folder: SearchFolder) -> None:
    options = tune("learning_rate=uniform:0:1", samples=2)
    search = ongoing(folder, options)
    first = search.next_assignment()
    search.next_assignment()
    search.conclude(1, {"ended": True, "error": "no space left on device", "is_transient": True})
    search.conclude(2, {"ended": True, "error": "no such module", "is_transient": False})
    assert search.table.count("failed") == 2
    later = ongoing(folder, options)
    assert later.waiting == [1] and first is not None
    again = later.next_assignment()
    assert again is not None and again.point == first.point
    row = Table.read(folder, "accuracy").rows[1]
    assert (row.state, row.error, row.is_transient) == ("running", None, False)


@pytest.mark.parametrize(
    ("error", "is_transient"),
    [(OSError(errno.ENOSPC, "full"), True), (MemoryError(), True), (DataError("a", "bad"), False)],
)
def test_a_failed_trial_reports_whether_its_error_is_transient(
    error: Exception, is_transient: bool, folder: SearchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assignment = ongoing(folder, tune("learning_rate=uniform:0:1")).next_assignment()
    assert assignment is not None

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("tlkit.tuning.trial.run_trial", fail)
    assert outcome_of_trial(assignment, TrialReporter(assignment, send_nothing))["is_transient"] is is_transient


def test_an_error_in_the_search_is_raised_unchanged(folder: SearchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises an error of its own with the text of ours, and may call the search again before that."""
    search = ongoing(folder, tune("learning_rate=uniform:0:1", samples=2))
    search.next_assignment()
    full = StorageError(folder.results_lines, "cannot be written: no space left on device")

    def no_room(trial: Trial) -> None:
        raise full

    monkeypatch.setattr(search.table, "put", no_room)
    with pytest.raises(StorageError) as raised, search.raising_first_error():
        try:
            search.conclude(1, {"ended": True})
        except StorageError as error:
            with pytest.raises(KeyError):
                search.conclude(9, {"ended": True})
            raise RuntimeError(f"Traceback ... {error}") from None
    assert raised.value is full
    other = ongoing(folder, tune("learning_rate=uniform:0:1", samples=2))
    with pytest.raises(RuntimeError, match="Ray's own"), other.raising_first_error():
        raise RuntimeError("Ray's own")


def test_names_that_are_not_utf8_are_written_to_the_tables(folder: SearchFolder) -> None:
    table = Table(folder, "accuracy")
    table.put(Trial(1, {}, "failed", error="caf\udce9.jpg: is damaged"))
    table.write_csv()
    assert "caf\\udce9.jpg" in Path(folder.results_table).read_text()
    assert Table.read(folder, "accuracy").rows == table.rows
