"""tlkit tune, from the folder to the best trial: what it prints, what it leaves, how it goes on.

Ray takes seconds to start, so one search is told from its beginning to its end, by way of a signal.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Outcome, Run, command, run_process
from tlkit.options.finetune import METRIC_NAMES
from tlkit.tuning.reaper import processes_with_marker

EPOCHS = 40


@dataclass(frozen=True)
class Told:
    """A search that was stopped by SIGTERM, and the same resumed. before: the runs that had ended by then."""

    folder: Path
    stopped: Outcome
    resumed: Outcome
    before: dict[str, dict[str, bytes]]


def rows_of(folder: Path) -> dict[int, dict[str, Any]]:
    lines = (folder / "results.jsonl").read_text().splitlines() if (folder / "results.jsonl").exists() else []
    return {row["trial"]: row for row in map(json.loads, lines)}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run, by its name; what lies under two names is read once."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ray_folders() -> set[str]:
    return {name for name in os.listdir("/tmp") if name.startswith("tlkit-ray-")}


@pytest.fixture(scope="module")
def told(images: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    work = tmp_path_factory.mktemp("tune")
    (work / "bad.pth").write_text("no weights")
    patch = pytest.MonkeyPatch()
    patch.setenv("TLKIT_CACHE", str(work / "cache"))  # other tests have passed the same images
    folder, before = work / "search", ray_folders()
    arguments = [
        "tune", images, "--out", folder, "--epochs", EPOCHS, "--batch-size", 8, "--folds", 3, "--workers", 1,
        "--try", "backbone=grid:timm/test_resnet,timm/test_byobnet", "--try", f"weights=grid:none,{work / 'bad.pth'}",
        "--try", "learning_rate=choice:0.01,0.02", "--samples", 2,
    ]  # fmt: skip
    with open(work / "out", "w+b") as out, open(work / "err", "w+b") as err:
        process = subprocess.Popen(command(*arguments), stdout=out, stderr=err)
        ends_at = time.monotonic() + 240
        while not any(row["state"] == "finished" for row in rows_of(folder).values()):
            assert process.poll() is None and time.monotonic() < ends_at, (work / "err").read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
    stopped = Outcome(status, (work / "out").read_text(), (work / "err").read_text())
    assert not carrying_any(process.pid)
    ended = {
        row["path"]: contents(folder / row["path"]) for row in rows_of(folder).values() if row["state"] != "running"
    }
    resumed = run_process("resume", folder)
    assert ray_folders() <= before
    patch.undo()
    yield Told(folder, stopped, resumed, ended)


def carrying_any(pid: int) -> list[int]:
    """Processes that a search left, by the beginning of its marker."""
    markers = set()
    for entry in Path("/proc").iterdir():
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        markers |= {v.partition(b"=")[2].decode() for v in variables if v.startswith(f"TLKIT_SEARCH={pid}-".encode())}
    return [number for marker in markers for number in processes_with_marker(marker)]


def test_a_signal_ends_it_and_says_how_to_go_on(told: Told) -> None:
    assert told.stopped.status == -signal.SIGTERM
    assert told.stopped.out == ""
    assert f"go on with: tlkit resume {told.folder}" in told.stopped.err
    assert "Traceback" not in told.stopped.err


def test_every_trial_ends_once_and_failures_are_recorded(told: Told) -> None:
    rows = rows_of(told.folder)
    assert sorted(rows) == list(range(1, 9))
    good = {n for n, row in rows.items() if row["options"]["weights"] == "none"}
    assert {n for n, row in rows.items() if row["state"] in ("finished", "stopped")} == good and len(good) == 4
    assert all("bad.pth" in rows[n]["error"] for n in set(rows) - good)
    for number in good:
        lines = (told.folder / rows[number]["path"] / "history.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == list(range(1, rows[number]["epochs"] + 1))


def test_what_had_ended_is_not_touched_again(told: Told) -> None:
    assert told.before
    for path, before in told.before.items():
        now = contents(told.folder / path)
        for name in ("model.pt", "report.html"):  # written for the best in the end
            now.pop(name, None)
        assert now == before


def test_the_best_trial_is_told_and_is_a_run_like_any_other(told: Told, images: Path, tlkit: Run) -> None:
    assert told.resumed.status == 3  # some failed
    rows = rows_of(told.folder)
    best = max(rows.values(), key=lambda row: (row["mean_accuracy"] or 0, -(row["loss"] or 9), -row["trial"]))
    assert told.resumed.out == f"{told.folder / best['path']}\n"
    assert (told.folder / best["path"] / "model.pt").exists()
    assert f"{best['accuracy']:.1%}" in (told.folder / best["path"] / "report.html").read_text()
    measured = json.loads(tlkit("evaluate", told.folder / best["path"], images, "--format", "json").out)
    assert (measured["accuracy"], measured["macro_f1"]) == (best["accuracy"], best["macro_f1"])
    assert measured["loss"] == pytest.approx(best["loss"], abs=1e-4)


def test_other_trials_predict_by_their_checkpoint_and_go_on_as_runs(told: Told, images: Path, tlkit: Run) -> None:
    best = told.resumed.out.strip()
    other = next(
        str(told.folder / row["path"])
        for row in rows_of(told.folder).values()
        if row["accuracy"] is not None and str(told.folder / row["path"]) != best
    )
    assert not Path(other, "model.pt").exists()
    assert tlkit("predict", other, images / "red" / "00.png").status == 0
    assert tlkit("resume", other, "--epochs", EPOCHS + 1).status == 0
    assert Path(other, "model.pt").exists()


def test_the_leaderboard_compares_backbones(told: Told) -> None:
    table = told.resumed.err[told.resumed.err.index("trial  backbone") :].splitlines()
    assert table[0].split()[:4] == ["trial", "backbone", "weights", "learning_rate"]
    assert table[0].split()[-2:] == ["images/s", "parameters"]
    with open(told.folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [line.split()[0] for line in table[1:9]] == [row["trial"] for row in rows]
    good = [row for row in rows if row["state"] != "failed"]
    assert all(float(row["images_per_second"]) > 0 and int(row["parameters"]) > 1e5 for row in good)
    for row in rows_of(told.folder).values():
        if row["state"] == "finished":
            folds = row["fold_accuracies"]
            assert len(folds) == 3
            assert row["mean_accuracy"] == pytest.approx(sum(folds) / 3)


def test_each_backbone_saw_each_image_once(told: Told) -> None:
    """Thirty images and two backbones, and never one in a trial or after the resume."""
    assert told.stopped.err.count("30 computed, 0 from the cache") == 2
    assert told.resumed.err.count("0 computed, 30 from the cache") >= 1
    assert "30 computed" not in told.resumed.err


def test_a_search_that_is_finished_says_so_again_without_ray(told: Told, tlkit: Run) -> None:
    again = tlkit("resume", told.folder)
    assert (again.status, again.out) == (3, told.resumed.out)
    assert "Ray" not in again.err
    assert tlkit("tune", "--resume", told.folder, "--samples", 1).status == 2


def test_nothing_of_ray_is_kept_or_told(told: Told) -> None:
    files = {entry.name for entry in told.folder.iterdir()}
    assert files == {".lock", "search.json", "results.jsonl", "results.csv", "space.toml", "status.json", "trials"}
    for text in (told.stopped.err, told.resumed.err):
        assert "RAY_AUTH" not in text and "ray.io" not in text
    for path in told.folder.rglob("*.json*"):
        assert "RAY_AUTH" not in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["--try", "learning_rat=choice:1,2"], 2, "tlkit tune: --try learning_rat=choice:1,2: 'learning_rat' is no"),
        (["--try", "learning_rate=uniform:1:0"], 2, "learning_rate has an empty range"),
        (["--cpus-per-trial", 9999], 2, "tlkit tune: --cpus-per-trial 9999: is more than the"),
        (
            ["--metric", "f2"],
            2,
            f"tlkit tune: --metric: 'f2' is not a valid value; expected {', '.join(METRIC_NAMES)}",
        ),
        (["--ray-address", "127.0.0.1:1"], 69, "tlkit tune: --ray-address 127.0.0.1:1: cannot be reached"),
        (["--ray-address", "somewhere"], 2, "is no address; expected HOST:PORT"),
        (["--folds", 11], 2, "tlkit tune: --folds 11: is more than class 'blue' has images, 10"),
        (["--weights", "nowhere.pth"], 66, "tlkit tune: nowhere.pth: no such file"),
        (["--try", "backbone=grid:resnet18,resnet_nineteen"], 2, "resnet_nineteen"),
    ],
)
def test_what_cannot_be_is_said_before_ray_starts(
    arguments: list[object], status: int, line: str, images: Path, tmp_path: Path, tlkit: Run
) -> None:
    outcome = tlkit("tune", images, "--out", tmp_path / "search", *arguments)
    assert (outcome.status, outcome.out) == (status, "")
    first = next(text for text in outcome.err.splitlines() if text.startswith("tlkit tune"))
    assert line in first
    assert "Ray  " not in outcome.err


def test_a_folder_that_another_search_has_is_left_alone(told: Told, images: Path, tlkit: Run) -> None:
    outcome = tlkit("tune", images, "--out", told.folder)
    assert outcome.status == 73
    assert "holds a search already" in outcome.err


def test_without_ray_one_line_says_what_to_install(
    images: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = tlkit("tune", images, "--out", tmp_path / "search")
    assert outcome.status == 69
    assert outcome.err.splitlines() == [
        "tlkit tune: tlkit tune: needs ray, which is not installed; get it by: pip install 'tlkit[tune]'"
    ]
    assert not (tmp_path / "search").exists()


def test_what_is_for_runs_alone_is_refused_for_a_search(told: Told, tlkit: Run) -> None:
    outcome = tlkit("resume", told.folder, "--epochs", 9)
    assert outcome.status == 2
    assert "--epochs: is for runs, and this is a search" in outcome.err
