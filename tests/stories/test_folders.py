"""Folders as people bring them, through the commands: runs inside of the data, unlabelled images, left-out files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Run, finetune_arguments, write_folder, write_image


def test_finetune_inside_of_the_data_twice(tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_folder(tmp_path / "data", 5)
    monkeypatch.chdir(data)
    words = [
        word for word in finetune_arguments(Path("."), Path("unused"), "--epochs", 1) if word not in ("--out", "unused")
    ]
    runs = []
    for _ in range(2):
        result = tlkit(*words)
        assert result.status == 0, result.err
        assert "3 classes, 15 images (cross-validated" in result.err
        runs.append(result.out.strip())
    assert runs[0] != runs[1] and all((data / run).exists() for run in runs)
    assert tlkit("tune", ".", "--backbone", "test_resnet", "--samples", 0).status == 2  # no trial, but no traceback
    assert "3 classes, 15 images" in tlkit("check", ".").out
    inputs = tlkit("predict", runs[0], ".").out.splitlines()
    assert len(inputs) == 15
    assert tlkit("evaluate", runs[0], ".").status == 0


@pytest.fixture(scope="module")
def kaggle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled training images, and flat test images without labels; some other files."""
    data = write_folder(tmp_path_factory.mktemp("kaggle") / "data" / "Train", 10).parent
    for number in range(4):
        write_image(data / "test1" / f"{number}.png", (1, 2, 3), number)
    (data / "sample_submission.csv").write_text("id,label\n")
    (data / "Train" / "red" / "notes.txt").write_text("")
    (data / "Train" / "red" / "@eaDir").mkdir()
    write_image(data / "Train" / "red" / "@eaDir" / "thumb.jpg", (9, 9, 9), 1)
    return data


@pytest.fixture(scope="module")
def kaggle_run(kaggle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tlkit.cli import run

    out = tmp_path_factory.mktemp("kaggle_run") / "run"
    assert run(finetune_arguments(kaggle, out, "--folds", 1)) == 0
    return out


def test_unlabelled_test_images_are_not_evaluated(kaggle: Path, kaggle_run: Path, tlkit: Run) -> None:
    result = tlkit("evaluate", kaggle_run, kaggle, "--format", "json")
    assert result.status == 0
    assert f"{kaggle}/test1 has no class folders, so its images are not labelled" in result.err
    assert "the validation images are evaluated instead" in result.err
    assert json.loads(result.out)["images"] == 6
    named = tlkit("evaluate", kaggle_run, kaggle, "--split", "test")
    assert named.status == 65 and "not labelled" in named.err
    assert f"tlkit predict {kaggle_run} {kaggle}/test1" in named.err


def test_nothing_labelled_to_evaluate(kaggle: Path, kaggle_run: Path, tmp_path: Path, tlkit: Run) -> None:
    shutil.copy(kaggle_run / "model.pt", tmp_path / "model.pt")
    result = tlkit("evaluate", tmp_path / "model.pt", kaggle)
    assert result.status == 65 and "has no validation images" in result.err


@pytest.mark.parametrize("command", ["check", "finetune"])
def test_left_out_files_are_said_once(command: str, kaggle: Path, tmp_path: Path, tlkit: Run) -> None:
    words = finetune_arguments(kaggle, tmp_path / "run", "--epochs", 1) if command == "finetune" else ["check", kaggle]
    result = tlkit(*words)
    assert result.status == 0
    said = result.out + result.err
    assert said.count("left out: 1 file (.csv), 1 (.txt), 1 in @eaDir") == said.count("left out") == 1


def test_predict_says_what_it_leaves_out(kaggle: Path, kaggle_run: Path, tlkit: Run) -> None:
    result = tlkit("predict", kaggle_run, kaggle / "Train" / "red", kaggle / "test1")
    assert len(result.out.splitlines()) == 14
    assert result.err == "tlkit predict: left out: 1 file (.txt), 1 in @eaDir\n"
    assert tlkit("predict", kaggle_run, kaggle / "test1").err == ""
    report = json.loads(tlkit("check", kaggle, "--format", "json").out)
    assert report["left_out"] == {"suffixes": {".csv": 1, ".txt": 1}, "folders": {"@eaDir": 1}, "loose_images": 0}


def test_folders_with_nearly_the_names_of_classes_are_evaluated(
    images: Path, finished_run: Path, tmp_path: Path, tlkit: Run
) -> None:
    for name in ("red", "green", "blue"):
        shutil.copytree(images / name, tmp_path / "test set" / name.capitalize())
    result = tlkit("evaluate", finished_run, tmp_path, "--format", "json")
    assert result.status == 0 and json.loads(result.out)["images"] == 30
    assert "matched to classes: 'Blue' is 'blue', 'Green' is 'green', 'Red' is 'red'" in result.err


def test_nested_classes_are_trained_evaluated_and_resumed(tmp_path: Path, tlkit: Run) -> None:
    write_folder(tmp_path / "data" / "warm", 5)
    write_folder(tmp_path / "data" / "cold", 5, first_seed=100)
    for name in ("blue", "green"):
        shutil.rmtree(tmp_path / "data" / "cold" / name)
    run = tmp_path / "run"
    assert tlkit(*finetune_arguments(tmp_path / "data", run, "--nested", "--epochs", 2)).status == 0
    assert json.loads((run / "split.json").read_text())["classes"] == [
        "cold/red",
        "warm/blue",
        "warm/green",
        "warm/red",
    ]
    assert tlkit("resume", run, "--epochs", 3).status == 0
    result = tlkit("evaluate", run, tmp_path / "data", "--split", "all", "--format", "json")
    assert result.status == 0 and json.loads(result.out)["images"] == 20


def test_a_result_below_the_baseline_is_said(tmp_path: Path, tlkit: Run) -> None:
    for number in range(40):  # both classes look the same
        write_image(tmp_path / "data" / "many" / f"{number}.png", (90, 90, 90), number)
    for number in range(4):
        write_image(tmp_path / "data" / "few" / f"{number}.png", (90, 90, 90), 100 + number)
    result = tlkit(*finetune_arguments(tmp_path / "data", tmp_path / "run", "--epochs", 1, "--folds", 1))
    assert result.status == 0
    assert "class 'many' has 32 training images, class 'few' only 3" in result.err
    assert "is no better than always predicting 'many' (0.8889)" in result.err
    page = (tmp_path / "run" / "report.html").read_text()
    assert "is no better than always predicting" in page and "32 training images" in page
