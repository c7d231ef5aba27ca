"""Reports of real runs: what they say is what the run did, and what cannot be shown is said."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import PROGRAM, open_browser
from tests.conftest import COLOURS, Run, finetune_arguments, run_process, write_folder, write_image
from tests.forked import Warm
from tlkit.data import decoders


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of which two, in validation, lie in the wrong folder, and one is there twice; more than pass together."""
    root = tmp_path_factory.mktemp("report") / "<b>colours"
    write_folder(root / "train", 8)
    write_folder(root / "val", 8, first_seed=500)
    write_image(root / "val" / "blue" / "<i>red.png", COLOURS["red"], 7)
    write_image(root / "val" / "green" / "red.png", COLOURS["red"], 8)
    shutil.copy(root / "train" / "red" / "00.png", root / "val" / "red" / "twin.png")
    return root


@pytest.fixture(scope="module")
def reported(warm: Warm, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("reported") / "run"
    status, _, err = warm.run(finetune_arguments(data, run))
    assert status == 0 and f"report    {run}/report.html" in err
    return run


def answers(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]


def best(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "status.json").read_text())["best"]
    return found


def assert_answers_are_those_of_the_best_epoch(run: Path) -> None:
    rows = answers(run)
    assert {row["epoch"] for row in rows} == {best(run)["epoch"]}
    files = json.loads((run / "split.json").read_text())["val"]
    assert sorted((row["label"], row["path"]) for row in rows) == sorted((c, f) for c in files for f in files[c])
    assert np.mean([row["label"] == row["predicted"] for row in rows]) == best(run)["val_accuracy"]
    assert np.mean([row["loss"] for row in rows]) == pytest.approx(best(run)["val_loss"], rel=1e-5)


def test_what_is_written_down_is_what_the_best_epoch_said(reported: Path, data: Path, tlkit: Run) -> None:
    assert_answers_are_those_of_the_best_epoch(reported)
    result = json.loads(tlkit("evaluate", reported, data, "--format", "json").out)
    rows = answers(reported)
    assert result["accuracy"] == np.mean([row["label"] == row["predicted"] for row in rows])
    labels = {row["path"]: row["predicted"] for row in rows}
    paths = [data / row["path"] for row in rows]
    predicted = [line.split("\t")[1] for line in tlkit("predict", reported, *paths).out.splitlines()]
    assert predicted == list(labels.values())


def test_the_page_shows_the_run(reported: Path) -> None:
    page = (reported / "report.html").read_text()
    wrong = [row for row in answers(reported) if row["label"] != row["predicted"]]
    assert len(wrong) >= 2
    assert page.count('src="data:image/jpeg;base64,') == len(wrong)
    assert "val/blue/&lt;i&gt;red.png" in page and "<i>" not in page
    assert "1 picture is in both training and validation" in page
    assert f"{best(reported)['val_accuracy']:.1%}" in page
    assert "--batch-size" in page and "torch" in page
    assert not re.search(r"src=\"(?!data:)|href=\"(?!#)|url\(|<script|@import", page)


def test_a_report_can_be_made_again_and_elsewhere_without_torch(reported: Path, tmp_path: Path) -> None:
    (reported / "report.html").unlink()
    outcome = run_process("report", reported)
    assert (outcome.status, outcome.out, outcome.err) == (0, f"{reported}/report.html\n", "")
    outcome = run_process("report", "run", "-o", tmp_path / "page.html", cwd=reported.parent)
    assert (outcome.status, outcome.out) == (0, f"{tmp_path}/page.html\n")
    assert "tlkit predict run IMAGE" in (tmp_path / "page.html").read_text()


def test_images_that_have_moved_are_missed_and_found_again(
    reported: Path, data: Path, tmp_path: Path, tlkit: Run
) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(reported, run)
    resolved = json.loads((run / "options.json").read_text())
    resolved["resolved"]["data"] = "/nowhere"
    (run / "options.json").write_text(json.dumps(resolved))
    assert tlkit("report", run).status == 0
    page = (run / "report.html").read_text()
    assert "thumbnails are missing" in page and "tlkit report RUN --data DIR" in page and "data:image" not in page
    shutil.copytree(data, moved)
    assert tlkit("report", run, "--data", moved).status == 0
    assert "thumbnails are missing" not in (run / "report.html").read_text()


@pytest.mark.parametrize("how", ["--no-cache", "--unfreeze", "DataParallel"])
def test_where_the_backbone_runs_each_epoch_it_does_not_run_again_for_the_report(
    how: str, data: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    loaded: list[str] = []
    load = decoders.Decoder.load_open

    def counted(self: decoders.Decoder, path: str, file: Any, view: Any) -> Any:
        loaded.append(path)
        return load(self, path, file, view)

    monkeypatch.setattr(decoders.Decoder, "load_open", counted)
    if how == "DataParallel":  # what --parallel data wraps a module in, which passes all on where there is no GPU
        from torch.nn import DataParallel

        from tlkit.devices.select import Devices

        monkeypatch.setattr(Devices, "data_parallel", lambda self, module: DataParallel(module))
    more = ("--unfreeze", "layer4") if how == "--unfreeze" else ("--no-cache",)
    assert tlkit(*finetune_arguments(data, run, *more, "--epochs", 2, "--workers", 0)).status == 0
    assert_answers_are_those_of_the_best_epoch(run)
    rows = answers(run)
    mistakes = sum(row["label"] != row["predicted"] for row in rows)
    in_validation = sum("/val/" in path for path in loaded)
    assert in_validation == len(rows) * (1 + 2) + mistakes, "looked at once, validated twice, and thumbnails"


@pytest.mark.slow
def test_of_several_ranks_each_tells_what_it_measured(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = ("--no-cache", "--epochs", 2, "--processes", 2, "--log", "tensorboard")
    outcome = run_process(*finetune_arguments(data, run, *more))
    assert outcome.status == 0, outcome.err
    assert_answers_are_those_of_the_best_epoch(run)
    assert (run / "report.html").exists()
    assert len(list((run / "tensorboard").iterdir())) == 1, "the first rank alone logs"


def test_a_run_that_was_killed_before_its_report_gets_it_when_it_goes_on(
    warm: Warm, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = finetune_arguments(data, run, "--no-cache", "--epochs", 3)
    assert warm.run(arguments, hook="interrupt_in_commit", time=1, call="fsync", since="model")[0] == -signal.SIGKILL
    assert not (run / "report.html").exists()
    assert warm.run(["resume", run])[0] == 0
    assert_answers_are_those_of_the_best_epoch(run)
    first = (run / "report.html").read_text()
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert warm.run(["resume", run])[0] == 0
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert "Confusion matrix" in first


def test_a_report_that_cannot_be_written_is_a_warning(warm: Warm, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert warm.run(finetune_arguments(data, run, "--epochs", 2))[0] == 0
    (run / "about.json").write_text('{"warnings": 5}')
    status, out, err = warm.run(["resume", run, "--epochs", 3])
    assert (status, out) == (0, f"{run}/model.pt\n")
    assert "warning" in err and "Traceback" not in err


def test_a_run_on_its_way_has_a_report(warm: Warm, data: Path, tmp_path: Path, tlkit: Run) -> None:
    run = tmp_path / "run"
    assert warm.run(finetune_arguments(data, run), hook="interrupt_at_step", step=7, number=15)[0] == -signal.SIGTERM
    assert tlkit("report", run).status == 0
    page = (run / "report.html").read_text()
    assert "the run has not finished yet" in page and "Learning curves" in page


@pytest.mark.parametrize(
    ("file", "content"),
    [("history.jsonl", "{"), ("validation.jsonl", '{"epoch": 1}\n'), ("split.json", "{}"), ("options.json", "[]"),
     ("validation.jsonl", ""), ("about.json", "no"), ("about.json", '{"warnings": 5}'), ("history.jsonl", "[1]\n"),
     ("status.json", "[]"), ("status.json", '{"state": "finished", "best": 5}'),
     ("status.json", '{"state": "finished", "best": {"epoch": 1}}')],
)  # fmt: skip
def test_what_is_damaged_is_named(file: str, content: str, reported: Path, tmp_path: Path, tlkit: Run) -> None:
    run = tmp_path / "run"
    shutil.copytree(reported, run)
    (run / file).write_text(content)
    outcome = tlkit("report", run)
    assert outcome.status == 65
    assert outcome.err.startswith(f"tlkit report: {run}")
    assert file in outcome.err or "is not a complete run folder" in outcome.err


def test_what_is_no_run_is_told(tmp_path: Path, tlkit: Run) -> None:
    assert tlkit("report", tmp_path / "none").status == 66
    assert tlkit("report", tmp_path).err == f"tlkit report: {tmp_path}: is not a run folder: it has no options.json\n"


@pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")
def test_a_browser_shows_a_real_report(reported: Path) -> None:
    with open_browser() as browser:
        page = browser.open(reported / "report.html", 390)
        assert (page.requests, page.messages, page.overflow()) == ([], [], 0)
        assert page.evaluate("document.querySelectorAll('section').length") == 8
