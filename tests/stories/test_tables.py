"""Tables through the commands: the bits of the folder, resume, evaluate, check, tune, and predict with columns."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
from pathlib import Path

import jsonschema
import pytest
import torch

from tests.conftest import Run, finetune_arguments, write_folder
from tlkit.files.artifact import read_artifact
from tlkit.model.files import MODEL_FORMAT

SCHEMA = Path(__file__).parent.parent.parent / "docs" / "predictions.schema.json"


def write_table(folder: Path, name: str = "table.csv", header: str = "path,label", more: str = "") -> Path:
    """A table of a folder of class folders, in random order."""
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    random.Random(5).shuffle(files)
    lines = [f"{file},{file.split('/')[-2]}{more}" for file in files]
    (folder / name).write_text("\n".join([header, *lines]) + "\n")
    return folder / name


def tensors(run: Path) -> list[torch.Tensor]:
    """The weights of the finished model of a run."""
    found: list[torch.Tensor] = []

    def collect(value: object) -> None:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                collect(value[key])

    collect(read_artifact(str(run / "model.pt"), MODEL_FORMAT))
    assert found
    return found


def same_bits(one: Path, other: Path) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("tables") / "colours", 8)


CASES: list[tuple[str, ...]] = [
    (),
    ("--augment", "light", "--views", "2"),
    ("--unfreeze", "all", "--epochs", "1"),
    ("--val", "0.4", "--seed", "7"),
]  # fmt: skip


@pytest.mark.parametrize("options", CASES, ids=lambda options: " ".join(options) or "default")
def test_a_table_gives_the_bits_of_the_folder(options: tuple[str, ...], data: Path, tmp_path: Path, tlkit: Run) -> None:
    table = write_table(data)
    for name, source in (("by_folder", data), ("by_table", table)):
        arguments = finetune_arguments(source, tmp_path / name, "--epochs", 2, *options)
        assert tlkit(*arguments).status == 0
    assert same_bits(tmp_path / "by_folder", tmp_path / "by_table")
    splits = [json.loads((tmp_path / name / "split.json").read_text()) for name in ("by_folder", "by_table")]
    assert splits[0] == splits[1]


def test_a_run_from_a_table_resumes_and_remembers_its_digest(data: Path, tmp_path: Path, tlkit: Run) -> None:
    root = Path(shutil.copytree(data, tmp_path / "data"))
    os.rename(write_table(root), tmp_path / "labels.csv")
    options = ("--root", root, "--epochs", 4)
    result = tlkit(*finetune_arguments(tmp_path / "labels.csv", tmp_path / "whole", *options))
    assert result.status == 0, result.err
    assert "table with sha256 " in result.err
    about = json.loads((tmp_path / "whole" / "about.json").read_text())
    assert about["table"]["path"] == str(tmp_path / "labels.csv") and len(about["table"]["sha256"]) == 64
    assert (
        tlkit(*finetune_arguments(tmp_path / "labels.csv", tmp_path / "run", *options[:2], "--epochs", 2)).status == 0
    )
    resumed = tlkit("resume", tmp_path / "run", "--epochs", 4)
    assert resumed.status == 0 and "has changed" not in resumed.err
    with (tmp_path / "labels.csv").open("a") as file:
        file.write("\n")
    os.rename(root, tmp_path / "moved")
    changed = tlkit("resume", tmp_path / "run", "--epochs", 5, "--root", tmp_path / "moved")
    assert changed.status == 0, changed.err
    assert "labels.csv has changed since the run started; the run keeps its images and labels" in changed.err
    again = tlkit("resume", tmp_path / "whole" / "checkpoints" / "last.pt", "--root", tmp_path / "moved", "--epochs", 5,
                  "--out", tmp_path / "new")  # fmt: skip
    assert again.status == 0, again.err
    assert "report.html" in tlkit("report", tmp_path / "run").out


def test_evaluate_check_and_finetune_take_the_same_table(data: Path, tmp_path: Path, tlkit: Run) -> None:
    files = sorted(path.relative_to(data) for path in data.rglob("*.png"))
    parts = ["train"] * 5 + ["valid", "Test", "test"]
    lines = [f"{file.with_suffix('')},{file.parent},{parts[n % 8]}" for n, file in enumerate(files)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["id,breed,part", *lines]) + "\n")
    how = ("--root", data, "--columns", "path=id,label=breed,split=part")
    checked = tlkit("check", table, *how)
    assert checked.status == 0 and "3 classes, 18 images" in checked.out
    run = tlkit(*finetune_arguments(table, tmp_path / "run", *how, "--epochs", 1))
    assert run.status == 0 and "15 training images, 3 validation images" in run.err
    for split, images in (("auto", 6), ("val", 3), ("train", 15), ("all", 24)):
        result = tlkit("evaluate", tmp_path / "run", table, *how, "--split", split, "--format", "json")
        assert (result.status, json.loads(result.out)["images"]) == (0, images), result.err
    refused = tlkit(
        "evaluate", tmp_path / "run", table, "--root", data, "--columns", "path=id,label=breed", "--split", "test"
    )
    assert refused.status == 66 and "it has no split column" in refused.err
    assert tlkit("evaluate", tmp_path / "run", data, "--format", "json").status == 0
    (tmp_path / "bad.csv").write_text("path,label\nmissing.png,red\n")
    for words in (
        finetune_arguments(tmp_path / "bad.csv", tmp_path / "none"),
        ["check", tmp_path / "bad.csv"],
        ["evaluate", tmp_path / "run", tmp_path / "bad.csv"],
    ):
        result = tlkit(*words)
        assert result.status == 65 and "line 2: no such file: missing.png" in result.err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_predict_writes_the_columns_of_a_table(
    form: str, finished_run: Path, data: Path, tmp_path: Path, tlkit: Run
) -> None:
    table = tmp_path / "inputs.csv"
    rows = [
        ["1", "red/00.png", 'a "note", quoted', "red"],
        ["2", "missing.png", "", "red"],
        ["3", "blue/01", "é", "blue"],
    ]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "file", "note", "label"], *rows])
    result = tlkit("predict", finished_run, table, "--root", data, "--columns", "path=file", "--format", form)
    assert result.status == 3
    paths = [f"{data}/red/00.png", f"{data}/blue/01.png"]
    if form == "csv":
        header, *body = csv.reader(result.out.splitlines())
        assert header == ["path", "label", "probability", "id", "note", "table_label"]
        assert [row[0] for row in body] == paths
        assert [row[3:] for row in body] == [["1", 'a "note", quoted', "red"], ["3", "é", "blue"]]
    elif form == "tsv":
        cells = [line.split("\t") for line in result.out.splitlines()]
        assert [row[0] for row in cells] == paths and [row[3:] for row in cells] == [
            ["1", 'a "note", quoted', "red"], ["3", "é", "blue"],
        ]  # fmt: skip
    else:
        records = [json.loads(line) for line in result.out.splitlines()]
        for record in records:
            jsonschema.validate(record, json.loads(SCHEMA.read_text()))
        assert [record["columns"] for record in records] == [{"id": r[0], "note": r[2], "label": r[3]} for r in rows]
        assert records[1]["error"]["code"] == "not_found"


def test_predict_refuses_a_table_that_is_none(finished_run: Path, data: Path, tmp_path: Path, tlkit: Run) -> None:
    (tmp_path / "a.csv").write_text("name\nx.png\n")
    refused = tlkit("predict", finished_run, tmp_path / "a.csv")
    assert refused.status == 65 and "Name them: --columns path=name" in refused.err
    assert tlkit("predict", finished_run, tmp_path / "a.csv", data).status == 2
    assert tlkit("predict", finished_run, tmp_path / "b.csv").status == 66
    assert tlkit("predict", finished_run, data, "--root", data).status == 2


def test_weights_change_the_training_and_equal_ones_do_not(data: Path, tmp_path: Path, tlkit: Run) -> None:
    write_table(data)
    write_table(data, "ones.csv", "path,label,weight", ",2.5")
    text = (data / "ones.csv").read_text().replace(",red,2.5", ",red,100")
    (data / "heavy.csv").write_text(text)
    for name in ("table", "ones", "heavy"):
        assert tlkit(*finetune_arguments(data / f"{name}.csv", tmp_path / name, "--epochs", 2)).status == 0
    assert same_bits(tmp_path / "table", tmp_path / "ones")
    assert not same_bits(tmp_path / "table", tmp_path / "heavy")
    assert tlkit(*finetune_arguments(data / "heavy.csv", tmp_path / "half", "--epochs", 1)).status == 0
    for name in ("table", "ones", "heavy"):
        os.remove(data / f"{name}.csv")
    assert tlkit("resume", tmp_path / "half", "--epochs", 2).status == 0
    split = json.loads((tmp_path / "half" / "split.json").read_text())
    assert set(split["weights"].values()) == {2.5, 100.0}


def test_a_folder_with_a_table_beside_the_images_hints_at_it(data: Path, tmp_path: Path, tlkit: Run) -> None:
    shutil.copytree(data / "red", tmp_path / "bird set" / "images")
    (tmp_path / "bird set" / "labels.csv").write_text(
        "filename,label\n" + "".join(f"{n:02d}.png,{n % 2}\n" for n in range(8))
    )
    refused = tlkit("check", tmp_path / "bird set")
    line = next(line for line in (refused.out + refused.err).splitlines() if "labels.csv" in line)
    assert f"tlkit finetune '{tmp_path}/bird set/labels.csv'" in line


def test_a_table_without_names_of_columns_is_refused(images: Path, tmp_path: Path, tlkit: Run) -> None:
    """Its first row would be lost."""
    table = tmp_path / "bare.csv"
    table.write_text("red/00.png,red\nred/01.png,red\nblue/00.png,blue\nblue/01.png,blue\n")
    result = tlkit("check", table, "--root", images)
    assert result.status == 65 and "path,label" in result.err + result.out
    assert "has no line with the names of its columns" in result.err + result.out
