"""evaluate where something is wrong: images that cannot be read, a model that gives no numbers, names of any bytes."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Run, finetune_arguments
from tests.stories.predicting import without_numbers_for
from tlkit.data import decoders
from tlkit.inference.open import open_predictor
from tlkit.reports.evaluation import as_json, as_text
from tlkit.training.evaluation import Evaluation, Predictions, evaluate_predictions

OPEN_PREDICTOR = "tlkit.commands.evaluate.open_predictor"


def test_a_model_that_gives_no_numbers_is_refused(
    finished_run: Path, images: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OPEN_PREDICTOR, without_numbers_for(3))
    result = tlkit("evaluate", finished_run, images, "--split", "all", "--format", "json")
    assert (result.status, result.out) == (65, "")
    assert "blue/03.png: the model's scores are not finite" in result.err


def test_what_is_no_number_is_never_written() -> None:
    broken = dataclasses.replace(evaluation_of(2), figures={"loss": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        as_json(broken, [])


def evaluation_of(classes: int) -> Evaluation:
    """Two images of each class, of which one is taken for the next class, and both of the last class for the first."""
    labels = np.repeat(np.arange(classes), 2)
    predicted = labels.copy()
    predicted[1::2] = (labels[1::2] + 1) % classes
    predicted[-2] = 0
    confidence = np.full(len(labels), 0.75)
    return evaluate_predictions(
        Predictions(labels, predicted, confidence, -np.log(confidence)), tuple(map(str, labels[::2]))
    )


@pytest.mark.parametrize("classes", [512, 513, 100_000])
def test_a_confusion_matrix_of_many_classes_is_a_list_of_pairs(classes: int) -> None:
    found = json.loads(as_json(evaluation_of(classes), []))
    if classes <= 512:
        assert np.array(found["confusion"]).sum() == 2 * classes and "confusion_pairs" not in found
    else:
        assert found["confusion"] is None
        assert found["confusion_pairs"][:3] == [[0, 0, 1], [0, 1, 1], [1, 1, 1]]
        assert sum(images for *_, images in found["confusion_pairs"]) == 2 * classes
    text = as_text(evaluation_of(classes), [])
    assert "most frequent confusions" in text and f"     2  {classes - 1} predicted as 0\n" in text


def test_nothing_more_is_computed_once_it_is_clear_that_it_is_refused(
    finished_run: Path, images: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(images, tmp_path / "data")
    for name in ("blue/04.png", "red/09.png"):
        (tmp_path / "data" / name).write_bytes(b"")
    passes: list[int] = []

    def counting(*arguments: Any) -> Any:
        model = open_predictor(*arguments)
        logits = model.logits
        object.__setattr__(model, "logits", lambda pixels: passes.append(len(pixels)) or logits(pixels))
        return model

    monkeypatch.setattr(OPEN_PREDICTOR, counting)
    options = ("--split", "all", "--batch-size", 2)
    strict = tlkit("evaluate", finished_run, tmp_path / "data", *options)
    assert strict.status == 65 and "2 images of 30 cannot be read" in strict.err
    assert "blue/04.png" in strict.err and "red/09.png" in strict.err
    assert passes == [2, 2]
    assert tlkit("evaluate", finished_run, tmp_path / "data", *options, "--skip-bad").status == 3
    assert sum(passes) == 4 + 28


def test_decoders_end_with_the_work(
    finished_run: Path, images: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[decoders.Processes] = []
    closed: list[decoders.Processes] = []
    make, close = decoders.Processes.__init__, decoders.Processes.close
    monkeypatch.setattr(decoders.Processes, "__init__", lambda pool, *a: opened.append(pool) or make(pool, *a))
    monkeypatch.setattr(decoders.Processes, "close", lambda pool: closed.append(pool) or close(pool))
    for arguments in (
        ["evaluate", finished_run, images, "--split", "all"],
        finetune_arguments(images, tmp_path / "run", "--no-cache", "--epochs", 1),
        finetune_arguments(images, tmp_path / "other", "--epochs", 1),
    ):
        opened.clear()
        closed.clear()
        assert tlkit(*arguments).status == 0
        assert opened and set(opened) == set(closed)


def test_classes_of_any_name_can_be_read_by_any_program(images: Path, tmp_path: Path, tlkit: Run) -> None:
    data = os.fsencode(tmp_path) + b"/data"
    for source, name in (("red", b"caf\xe9"), ("blue", b"blue")):
        shutil.copytree(os.fsencode(images / source), data + b"/" + name)
    folder = tmp_path / "data"
    assert tlkit(*finetune_arguments(folder, tmp_path / "run")).status == 0
    for arguments in (
        ["evaluate", tmp_path / "run", folder, "--format", "json"],
        ["check", folder, "--format", "json"],
        ["predict", tmp_path / "run", folder, "--format", "jsonl"],
    ):
        result = tlkit(*arguments)
        assert result.status == 0
        first = json.loads(result.out.splitlines()[0] if arguments[0] == "predict" else result.out)
        json.dumps(first, ensure_ascii=False).encode()  # a strict reader: every text can be encoded
        assert "label_bytes" in result.out


def test_a_cross_validated_run_is_not_measured_on_images_that_it_has_seen(
    finished_run: Path, images: Path, tlkit: Run
) -> None:
    """Its figures are those of the best epoch's out-of-fold predictions; asked for all images, the model is run."""
    rows = [json.loads(line) for line in (finished_run / "history.jsonl").read_text().splitlines()]
    saved = [json.loads(line) for line in (finished_run / "validation.jsonl").read_text().splitlines()]
    stored = tlkit("evaluate", finished_run, images, "--format", "json")
    assert stored.status == 0 and "out-of-fold" in stored.err
    found, best = json.loads(stored.out), rows[saved[0]["epoch"] - 1]
    assert found["images"] == len(saved) == 30 and found["loss"] == best["val_loss"]
    assert found["accuracy"] == sum(row["label"] == row["predicted"] for row in saved) / 30 == best["val_accuracy"]
    every = tlkit("evaluate", finished_run, images, "--split", "all", "--format", "json")
    assert every.status == 0 and "out-of-fold" not in every.err
    assert json.loads(every.out)["loss"] != found["loss"]
    assert "trained on 30 images of these" in every.err


def test_a_stored_result_is_that_of_the_model_on_the_same_images(
    finished_run: Path, images: Path, tmp_path: Path, tlkit: Run
) -> None:
    """Other checkpoints, other models in the folder and changed images are measured; missing models are errors."""
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(images, data)
    assert tlkit(*finetune_arguments(data, run)).status == 0
    assert "out-of-fold" in tlkit("evaluate", run / "model.pt", data).err
    earlier = sorted((run / "checkpoints").glob("epoch_*.pt"))[0]
    assert "out-of-fold" not in tlkit("evaluate", earlier, data).err
    assert tlkit("evaluate", run / "none.pt", data).status == 66
    shutil.copy(data / "red" / "00.png", data / "blue" / "copy.png")
    added = tlkit("evaluate", run, data)
    assert added.status == 0 and "out-of-fold" not in added.err and "were added, removed or changed" in added.err
    (data / "blue" / "copy.png").unlink()
    shutil.copy(data / "red" / "01.png", data / "red" / "00.png")
    assert "were added, removed or changed" in tlkit("evaluate", run, data).err


def test_a_cross_validated_run_of_a_table(images: Path, tmp_path: Path, tlkit: Run) -> None:
    table, run = tmp_path / "table.csv", tmp_path / "run"
    names = [path.relative_to(images) for path in sorted(images.rglob("*.png"))]
    table.write_text("path,label\n" + "".join(f"{name},{name.parent}\n" for name in names))
    assert tlkit(*finetune_arguments(table, run, "--root", images)).status == 0
    result = tlkit("evaluate", run, table, "--root", images, "--format", "json")
    assert result.status == 0 and "out-of-fold" in result.err and json.loads(result.out)["images"] == 30


def test_test_images_that_are_copies_of_training_images_are_noticed(images: Path, tmp_path: Path, tlkit: Run) -> None:
    for part in ("Training", "Testing"):
        shutil.copytree(images, tmp_path / "data" / part)
    assert tlkit(*finetune_arguments(tmp_path / "data", tmp_path / "run")).status == 0
    result = tlkit("evaluate", tmp_path / "run", tmp_path / "data")
    assert result.status == 0 and "trained on 30 images of these, going by their contents" in result.err
