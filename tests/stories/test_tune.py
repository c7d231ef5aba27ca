"""tlkit tune, from the folder to the best trial: its output, its files, and resuming it.

Ray takes seconds to start, so most tests look at one search that is stopped by a signal and resumed.
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

from tests.conftest import BACKBONE, Outcome, Run, command, run_process
from tlkit.options.finetune import METRIC_NAMES
from tlkit.tuning.driver import SERVERS, process_state
from tlkit.tuning.reaper import processes_with_marker

EPOCHS = 40


@dataclass(frozen=True)
class Stopped:
    """A search that was stopped by SIGTERM and resumed. before: files of the runs that had ended by then."""

    folder: Path
    stopped: Outcome
    resumed: Outcome
    before: dict[str, dict[str, bytes]]


def rows_of(folder: Path) -> dict[int, dict[str, Any]]:
    lines = (folder / "results.jsonl").read_text().splitlines() if (folder / "results.jsonl").exists() else []
    return {row["trial"]: row for row in map(json.loads, lines)}


def contents(folder: Path) -> dict[str, bytes]:
    """The content of every file of a run, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ray_folders() -> set[str]:
    return {name for name in os.listdir("/tmp") if name.startswith("tlkit-ray-")}


@pytest.fixture(scope="module")
def search(images: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stopped]:
    work = tmp_path_factory.mktemp("tune")
    (work / "bad.pth").write_text("no weights")
    patch = pytest.MonkeyPatch()
    patch.setenv("TLKIT_CACHE", str(work / "cache"))  # other tests cached features of the same images
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
    assert not left_processes(process.pid)
    ended = {
        row["path"]: contents(folder / row["path"]) for row in rows_of(folder).values() if row["state"] != "running"
    }
    resumed = run_process("resume", folder)
    assert ray_folders() <= before
    patch.undo()
    yield Stopped(folder, stopped, resumed, ended)


def left_processes(pid: int) -> list[int]:
    """Processes that a search has left running."""
    markers = set()
    for entry in Path("/proc").iterdir():
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        markers |= {v.partition(b"=")[2].decode() for v in variables if v.startswith(f"TLKIT_SEARCH={pid}-".encode())}
    return [number for marker in markers for number in processes_with_marker(marker)]


def test_a_signal_stops_it_and_prints_how_to_resume(search: Stopped) -> None:
    assert search.stopped.status == -signal.SIGTERM
    assert search.stopped.out == ""
    assert f"resume with: tlkit resume {search.folder}" in search.stopped.err
    assert "Traceback" not in search.stopped.err


def test_every_trial_ends_once_and_failures_are_recorded(search: Stopped) -> None:
    rows = rows_of(search.folder)
    assert sorted(rows) == list(range(1, 9))
    good = {n for n, row in rows.items() if row["options"]["weights"] == "none"}
    assert {n for n, row in rows.items() if row["state"] in ("finished", "stopped")} == good and len(good) == 4
    assert all("bad.pth" in rows[n]["error"] for n in set(rows) - good)
    for number in good:
        lines = (search.folder / rows[number]["path"] / "history.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == list(range(1, rows[number]["epochs"] + 1))


def test_a_resumed_search_does_not_change_finished_trials(search: Stopped) -> None:
    assert search.before
    for path, before in search.before.items():
        now = contents(search.folder / path)
        for name in ("model.pt", "report.html"):  # written for the best at the end
            now.pop(name, None)
        assert now == before


def test_the_best_trial_is_printed_and_is_an_ordinary_run(search: Stopped, images: Path, tlkit: Run) -> None:
    assert search.resumed.status == 3  # some failed
    rows = rows_of(search.folder)
    best = max(rows.values(), key=lambda row: (row["mean_accuracy"] or 0, -(row["loss"] or 9), -row["trial"]))
    assert search.resumed.out == f"{search.folder / best['path']}\n"
    assert (search.folder / best["path"] / "model.pt").exists()
    assert f"{best['accuracy']:.1%}" in (search.folder / best["path"] / "report.html").read_text()
    measured = json.loads(tlkit("evaluate", search.folder / best["path"], images, "--format", "json").out)
    assert (measured["accuracy"], measured["macro_f1"]) == (best["accuracy"], best["macro_f1"])
    assert measured["loss"] == pytest.approx(best["loss"], abs=1e-4)


def test_other_trials_predict_from_their_checkpoint_and_can_be_resumed(
    search: Stopped, images: Path, tlkit: Run
) -> None:
    best = search.resumed.out.strip()
    other = next(
        str(search.folder / row["path"])
        for row in rows_of(search.folder).values()
        if row["accuracy"] is not None and str(search.folder / row["path"]) != best
    )
    assert not Path(other, "model.pt").exists()
    assert tlkit("predict", other, images / "red" / "00.png").status == 0
    assert tlkit("resume", other, "--epochs", EPOCHS + 1).status == 0
    assert Path(other, "model.pt").exists()


def test_the_leaderboard_compares_backbones(search: Stopped) -> None:
    table = search.resumed.err[search.resumed.err.index("trial  backbone") :].splitlines()
    assert table[0].split()[:4] == ["trial", "backbone", "weights", "learning_rate"]
    assert table[0].split()[-2:] == ["images/s", "parameters"]
    with open(search.folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [line.split()[0] for line in table[1:9]] == [row["trial"] for row in rows]
    good = [row for row in rows if row["state"] != "failed"]
    assert all(float(row["images_per_second"]) > 0 and int(row["parameters"]) > 1e5 for row in good)
    for row in rows_of(search.folder).values():
        if row["state"] == "finished":
            folds = row["fold_accuracies"]
            assert len(folds) == 3
            assert row["mean_accuracy"] == pytest.approx(sum(folds) / 3)


def test_each_backbone_computed_each_image_once(search: Stopped) -> None:
    """Thirty images and two backbones; no features are computed in a trial or after the resume."""
    assert search.stopped.err.count("30 computed, 0 cached") == 2
    assert search.resumed.err.count("0 computed, 30 cached") >= 1
    assert "30 computed" not in search.resumed.err


def test_resuming_a_finished_search_prints_its_result_without_ray(search: Stopped, tlkit: Run) -> None:
    again = tlkit("resume", search.folder)
    assert (again.status, again.out) == (3, search.resumed.out)
    assert "Ray" not in again.err
    assert tlkit("tune", "--resume", search.folder, "--samples", 1).status == 2


def test_a_search_whose_ray_dies_ends_with_one_line_and_can_be_resumed(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my search"
    words = command("tune", images, "--out", folder, "--try", "learning_rate=choice:0.1,0.2", "--backbone", BACKBONE,
                    "--weights", "none", "--workers", 1)  # fmt: skip
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ends_at = time.monotonic() + 120
    while not (servers := ray_servers(process.pid)):
        assert process.poll() is None and time.monotonic() < ends_at
        time.sleep(0.05)
    time.sleep(0.5)  # the command looks for them ten times a second; killed before, Ray "could not be started"
    os.kill(servers[-1], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (71, "")
    assert err.splitlines()[-2:] == [
        "tlkit tune: Ray: ended unexpectedly; one of its processes was killed, or crashed",
        f"Resume with: tlkit resume '{folder}'",
    ]
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 71)
    while left_processes(process.pid):
        assert time.monotonic() < ends_at
        time.sleep(0.05)


def ray_servers(pid: int) -> list[int]:
    """gcs_server and raylet of a search, both or none."""
    found = [number for number in left_processes(pid) if process_state(number)[0] in SERVERS]
    return found if len(found) == 2 else []


def test_nothing_of_ray_is_kept_or_printed(search: Stopped) -> None:
    files = {entry.name for entry in search.folder.iterdir()}
    assert files == {".lock", "search.json", "results.jsonl", "results.csv", "space.toml", "status.json", "trials"}
    for text in (search.stopped.err, search.resumed.err):
        assert "RAY_AUTH" not in text and "ray.io" not in text
    for path in search.folder.rglob("*.json*"):
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
        (["--ray-address", "somewhere"], 2, "is not an address; expected HOST:PORT"),
        (["--folds", 11], 2, "tlkit tune: --folds 11: is more than the 10 images of class 'blue'"),
        (["--weights", "nowhere.pth"], 66, "tlkit tune: nowhere.pth: no such file"),
        (["--try", "backbone=grid:resnet18,resnet_nineteen"], 2, "resnet_nineteen"),
    ],
)
def test_an_impossible_search_is_refused_before_ray_starts(
    arguments: list[object], status: int, line: str, images: Path, tmp_path: Path, tlkit: Run
) -> None:
    outcome = tlkit("tune", images, "--out", tmp_path / "search", *arguments)
    assert (outcome.status, outcome.out) == (status, "")
    first = next(text for text in outcome.err.splitlines() if text.startswith("tlkit tune"))
    assert line in first
    assert "Ray  " not in outcome.err


def test_a_folder_with_another_search_is_refused(search: Stopped, images: Path, tlkit: Run) -> None:
    outcome = tlkit("tune", images, "--out", search.folder)
    assert outcome.status == 73
    assert "already contains a search" in outcome.err


def test_without_ray_the_error_says_what_to_install(
    images: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = tlkit("tune", images, "--out", tmp_path / "search")
    assert outcome.status == 69
    assert outcome.err.splitlines() == [
        "tlkit tune: ray: is not installed",
        "Install it with: pip install 'tlkit[tune]'",
    ]
    assert not (tmp_path / "search").exists()


def test_an_option_of_runs_is_refused_for_a_search(search: Stopped, tlkit: Run) -> None:
    outcome = tlkit("resume", search.folder, "--epochs", 9)
    assert outcome.status == 2
    assert "--epochs: cannot be changed when a search is resumed" in outcome.err


def test_a_search_takes_a_table(images: Path, tmp_path: Path) -> None:
    """In a process of its own: Ray draws its ports at random, and each test begins with the same random numbers."""
    table = tmp_path / "table.csv"
    names = [path.relative_to(images) for path in sorted(images.rglob("*.png"))]
    table.write_text("path,label\n" + "".join(f"{name},{name.parent}\n" for name in names))
    words = ["tune", table, "--root", images, "--backbone", BACKBONE, "--weights", "none", "--epochs", 1, "--no-onnx"]
    words += ["--try", "learning_rate=grid:0.01,0.1", "--folds", 2, "--out", tmp_path / "search"]
    result = run_process(*words)
    assert result.status == 0, result.err
