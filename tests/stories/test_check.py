"""tlkit check: all that would spoil training, told beforehand; and it ends as finetune would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Run, finetune_arguments, write_folder, write_image


def test_a_sound_folder(images: Path, tlkit: Run) -> None:
    result = tlkit("check", images)
    assert result.status == 0 and result.err == ""
    lines = result.out.splitlines()
    assert lines[0] == f"{images}: 3 classes, 30 images (20% of each class for validation, seed 0)"
    assert lines[2:6] == [
        "class    train      val",
        "blue         8        2",
        "green        8        2",
        "red          8        2",
    ]
    assert "formats   30 PNG" in lines and "modes     30 RGB" in lines and "median    48 x 40 pixels" in lines
    assert lines[-1] == "tlkit finetune would train on this folder"


def test_for_programs(tmp_path: Path, tlkit: Run) -> None:
    data = write_folder(tmp_path / "data", 12)
    write_image(data / "red" / "small.png", (1, 2, 3), 5, (9, 20))
    write_image(data / "red" / "large.png", (1, 2, 3), 6, (200, 100))
    report = json.loads(tlkit("check", data, "--format", "json").out)
    assert report["data"] == {"path": str(data)}
    assert report["classes"][2] == {"label": "red", "train": 11, "val": 3}
    assert report["sizes"] == {"smallest": [9, 20], "median": [48, 40], "largest": [200, 100]}
    assert report["tiny"] == [{"path": str(data / "red" / "small.png")}]
    assert report["bad"] == report["repeated"] == report["warnings"] == report["stops"] == []


def copies(root: Path) -> Path:
    """A folder with a picture in train and val, one in two classes, and one twice in a class."""
    write_folder(root / "train", 4)
    write_folder(root / "val", 2, first_seed=500)
    shutil.copy(root / "train/red/00.png", root / "val/red/leak.png")
    shutil.copy(root / "train/red/01.png", root / "train/blue/both.png")
    shutil.copy(root / "train/red/02.png", root / "train/red/twice.png")
    return root


def test_pictures_that_are_there_twice(tmp_path: Path, tlkit: Run) -> None:
    data = copies(tmp_path / "data")
    report = json.loads(tlkit("check", data, "--format", "json").out)

    def names(groups: list[list[dict[str, str]]]) -> list[list[str]]:
        return [[os.path.relpath(file["path"], data) for file in group] for group in groups]

    assert names(report["in_train_and_val"]) == [["train/red/00.png", "val/red/leak.png"]]
    assert names(report["in_several_classes"]) == [["train/blue/both.png", "train/red/01.png"]]
    assert names(report["repeated"]) == [["train/red/02.png", "train/red/twice.png"]]
    assert report["stops"] == []
    text = tlkit("check", data).out
    assert "repeated  1 picture in both training and validation, so validation accuracy will be too high" in text
    assert f"  {data}/train/red/00.png = {data}/val/red/leak.png" in text
    strict = tlkit("check", data, "--strict")
    assert strict.status == 65
    assert "1 picture is in both training and validation; 1 picture is in several classes" in strict.out


def test_finetune_warns_of_them_and_stops_where_it_is_strict(tmp_path: Path, tlkit: Run) -> None:
    data = copies(tmp_path / "data")
    result = tlkit(*finetune_arguments(data, tmp_path / "run", "--epochs", 1))
    assert result.status == 0
    assert "warning   1 picture is in both training and validation" in result.err
    assert "warning   1 picture is in several classes" in result.err
    assert f"  {data}/train/blue/both.png = {data}/train/red/01.png" in result.err
    assert "twice.png" not in result.err
    strict = tlkit(*finetune_arguments(data, tmp_path / "strict", "--strict"))
    assert strict.status == 65 and not (tmp_path / "strict").exists()
    assert f"{data}: 1 picture is in both training and validation; 1 picture is in several classes" in strict.err


def test_it_ends_as_finetune_would_with_the_same_options(images: Path, tmp_path: Path, tlkit: Run) -> None:
    def folder(name: str) -> Path:
        return Path(shutil.copytree(images, tmp_path / name))

    (folder("hollow") / "white").mkdir()
    shutil.copytree(images / "red", tmp_path / "one" / "red")
    (folder("bad") / "red" / "text.jpg").write_text("no picture")
    for number in range(11):
        (folder(f"worse{number}") if not number else tmp_path / "worse0").joinpath(
            "red", f"text{number}.jpg"
        ).write_text("no picture")
    copies(tmp_path / "twice")
    shutil.copytree(images / "red", tmp_path / "lost" / "a")
    (tmp_path / "lost" / "b").mkdir()
    (tmp_path / "lost" / "b" / "text.jpg").write_text("no picture")
    cases: list[tuple[str, list[object], int]] = [
        ("hollow", [], 65),
        ("hollow", ["--drop-empty"], 0),
        ("one", [], 65),
        ("one", ["--allow-one-class"], 0),
        ("bad", [], 65),
        ("bad", ["--skip-bad"], 3),
        ("bad", ["--skip-bad", "--max-bad", 0], 65),
        ("worse0", ["--skip-bad"], 65),
        ("worse0", ["--skip-bad", "--max-bad", 0.5], 3),
        ("twice", [], 0),
        ("twice", ["--strict"], 65),
        ("lost", ["--skip-bad"], 65),
        ("missing", [], 66),
        ("twice", ["--val", "0.5"], 2),
    ]
    for number, (name, options, status) in enumerate(cases):
        arguments = finetune_arguments(tmp_path / name, tmp_path / f"run{number}", "--epochs", 1, *options)
        assert tlkit(*arguments).status == status, (name, options)
        checked = tlkit("check", tmp_path / name, *options)
        assert checked.status == (0 if status == 3 else status), (name, options, checked.err)


def test_everything_is_told_of_a_folder_that_finetune_would_refuse_at_once(
    images: Path, tmp_path: Path, tlkit: Run
) -> None:
    shutil.copytree(images / "red", tmp_path / "data" / "red")
    (tmp_path / "data" / "white").mkdir()
    (tmp_path / "data" / "red" / "text.jpg").write_text("no picture")
    result = tlkit("check", tmp_path / "data")
    assert result.status == 65
    assert "no images in class 'white'" in result.out and "1 image of 11 cannot be read" in result.out
    assert "ignored folders without images: 'white'" in result.out


def test_repeats_are_cut_short_for_people_and_not_for_programs(images: Path, tmp_path: Path, tlkit: Run) -> None:
    data = Path(shutil.copytree(images, tmp_path / "data"))
    for number in range(25):
        (data / "red" / f"bad{number:02}.jpg").write_text("no picture")
    text = tlkit("check", data).out
    assert "bad       25 images: not_an_image" in text and "  and 15 more" in text
    assert text.count("/red/bad") == 10
    assert len(json.loads(tlkit("check", data, "--format", "json").out)["bad"]) == 25


def test_uneven_classes_and_single_images(images: Path, tmp_path: Path, tlkit: Run) -> None:
    data = Path(shutil.copytree(images, tmp_path / "data"))
    for number in range(100, 200):
        write_image(data / "red" / f"{number}.png", (200, 0, 0), number)
    write_image(data / "a\x1b[31m\nb" / "1.png", (9, 9, 9), 1)
    result = tlkit("check", data)
    assert result.status == 0
    assert "has only one image, so it cannot be validated; add images" in result.out
    assert "class 'red' has 88 training images" in result.out and "--class-weights balanced" in result.out
    assert "\x1b" not in result.out and r"a\x1b[31m\nb" in result.out


def test_many_classes_are_cut_short_for_people(tmp_path: Path, tlkit: Run) -> None:
    for number in range(40):
        write_image(tmp_path / "data" / f"class{number:02}" / "1.png", (9, 9, 9), number)
        write_image(tmp_path / "data" / f"class{number:02}" / "2.png", (9, 9, 9), 100 + number)
    text = tlkit("check", tmp_path / "data").out
    assert "and 10 smaller classes" in text and "class29" in text and "class30" not in text


def test_it_starts_without_torch(images: Path) -> None:
    program = f"import sys; from tlkit.cli import run; run(['check', {str(images)!r}]); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_change_nothing(workers: int, images: Path, tlkit: Run) -> None:
    assert tlkit("check", images, "--workers", workers).out == tlkit("check", images).out
