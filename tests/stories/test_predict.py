"""predict and evaluate, as a pipeline and a person use them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import Run, command, finetune_arguments, run_process
from tests.stories.predicting import on_a_terminal, without_numbers_for
from tlkit.data.decoders import Picture, ThisProcess, open_decoder
from tlkit.data.image_file import IMAGE_ERROR_CODES
from tlkit.data.normalize import normalize
from tlkit.data.view import View
from tlkit.errors import DataError
from tlkit.inference.open import open_predictor
from tlkit.inference.prediction import Loaded, best_labels, predict_batch
from tlkit.model.open import open_model
from tlkit.options.predict import InferenceOptions
from tlkit.training import loop
from tlkit.training.predictions import evaluate_rows, measured_rows


def all_images(root: Path) -> list[Path]:
    return sorted(root.rglob("*.png"))


def test_predict_agrees_with_the_runs_own_validation(finished_run: Path, images: Path, tlkit: Run) -> None:
    split = json.loads((finished_run / "split.json").read_text())
    files = [(images / name, label) for label in split["classes"] for name in split["val"][label]]
    records = [
        json.loads(line)
        for line in tlkit("predict", finished_run, *(f for f, _ in files), "--format", "jsonl").out.splitlines()
    ]
    best = json.loads((finished_run / "status.json").read_text())["best"]
    accuracy = np.mean([record["label"] == label for record, (_, label) in zip(records, files, strict=True)])
    assert accuracy == best["val_accuracy"]
    evaluated = json.loads(tlkit("evaluate", finished_run, images, "--format", "json").out)
    assert evaluated["images"] == len(files)
    assert evaluated["accuracy"] == best["val_accuracy"]
    assert evaluated["loss"] == pytest.approx(best["val_loss"], abs=1e-5)
    assert evaluated["macro_f1"] == pytest.approx(best["val_macro_f1"], abs=1e-12)


def test_predict_gives_the_probabilities_of_the_runs_own_validation(
    images: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[torch.Tensor] = []
    evaluate = loop.evaluate

    def recording(module: torch.nn.Module, batches: loop.Batches, *rest: Any) -> Any:
        tally = evaluate(module, batches, *rest)
        with torch.no_grad():
            measured.append(torch.cat([module(inputs) for inputs, *_ in batches.epoch(0)]).softmax(1))
        return tally

    monkeypatch.setattr(loop, "evaluate", recording)
    assert tlkit(*finetune_arguments(images, tmp_path / "run", "--val", "0.5")).status == 0
    best = json.loads((tmp_path / "run" / "status.json").read_text())["best"]["epoch"]
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    files = [images / name for label in split["classes"] for name in split["val"][label]]
    result = tlkit("predict", tmp_path / "run", *files, "--format", "jsonl", "--top-k", 3)
    records = [json.loads(line) for line in result.out.splitlines()]
    found = [[{t["label"]: t["probability"] for t in r["top"]}[label] for label in split["classes"]] for r in records]
    expected = measured[best - 1].numpy()
    assert np.array_equal(np.argmax(found, 1), expected.argmax(1)) and len(found) == 15
    assert np.abs(np.array(found) - expected).max() <= 1e-5


def test_every_form_of_the_model_predicts_the_same(finished_run: Path, images: Path, tlkit: Run) -> None:
    forms = [finished_run, finished_run / "model.pt", finished_run / "checkpoints" / "best.pt"]
    tables = []
    for form in forms:
        records = [
            json.loads(line)
            for line in tlkit("predict", form, images, "--format", "jsonl", "--top-k", 3).out.splitlines()
        ]
        assert len(records) == 30
        tables.append([{t["label"]: t["probability"] for t in record["top"]} for record in records])
    for other in tables[1:]:
        for left, right in zip(tables[0], other, strict=True):
            assert left == pytest.approx(right, abs=1e-5)


def test_two_formats_read_back_by_others(finished_run: Path, images: Path, tlkit: Run) -> None:
    table = list(csv.reader(io.StringIO(tlkit("predict", finished_run, images, "--format", "csv", "--top-k", 2).out)))
    assert table[0] == ["path", "label", "probability", "rank"]
    assert len(table) == 1 + 2 * 30
    records = [
        json.loads(line)
        for line in tlkit("predict", finished_run, images, "--format", "jsonl", "--top-k", 2).out.splitlines()
    ]
    rows = [
        [r["path"], t["label"], f"{t['probability']:.6f}", str(k)] for r in records for k, t in enumerate(r["top"], 1)
    ]
    assert rows == table[1:]
    assert [r["i"] for r in records] == list(range(30))
    assert all(r["v"] == 1 and r["label"] == r["top"][0]["label"] for r in records)


def test_failures_keep_their_place(finished_run: Path, images: Path, tmp_path: Path, tlkit: Run) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    good = all_images(images)[0]
    inputs = [good, tmp_path / "text.jpg", tmp_path / "missing.jpg", good, tmp_path / "empty.jpg"]
    result = tlkit("predict", finished_run, *inputs, "--format", "jsonl")
    assert result.status == 3
    records = [json.loads(line) for line in result.out.splitlines()]
    assert [record["path"] for record in records] == [str(path) for path in inputs]
    codes = [record.get("error", {}).get("code") for record in records]
    assert codes == [None, "not_an_image", "not_found", None, "empty_file"]
    assert set(codes) - {None} <= set(IMAGE_ERROR_CODES)
    plain = tlkit("predict", finished_run, *inputs)
    assert plain.status == 3
    assert len(plain.out.splitlines()) == 2
    assert f"tlkit predict: {tmp_path}/missing.jpg: no such file" in plain.err


def test_names_cannot_steer_the_terminal(finished_run: Path, tmp_path: Path, tlkit: Run) -> None:
    bad = tmp_path / "\x1b[31mred\nfolder.jpg"
    bad.touch()
    assert (
        f"tlkit predict: {tmp_path}/\\x1b[31mred\\nfolder.jpg: the file is empty"
        in tlkit("predict", finished_run, bad).err.splitlines()
    )
    assert "\x1b" not in tlkit("predict", bad, bad).err


def test_class_names_cannot_steer_the_terminal(images: Path, tmp_path: Path, tlkit: Run) -> None:
    for source, name in (("red", "\x1b[31mred"), ("blue", "blue\x9b31m")):
        shutil.copytree(images / source, tmp_path / "data" / name)
    (tmp_path / "data" / "\x1b[31mred" / "\x1b[1mempty.png").touch()
    trained = tlkit(*finetune_arguments(tmp_path / "data", tmp_path / "run", "--skip-bad"))
    assert trained.status == 3 and "\\x1b[1mempty.png" in trained.err
    assert not re.search("[\x1b\x9b]", trained.err)
    model, picture = tmp_path / "run" / "model.pt", images / "red" / "00.png"
    for arguments in (
        ["predict", model, picture],
        ["evaluate", model, tmp_path / "data", "--split", "all", "--skip-bad"],
    ):
        shown = on_a_terminal(*arguments).decode()
        assert "\\x1b[31mred" in shown and not re.search("[\x1b\x9b]", shown)
    assert "\t\x1b[31mred\t" in run_process("predict", model, picture).out


def test_a_model_that_gives_no_numbers_is_told_by_the_image() -> None:
    class Broken:
        classes = ("a", "b")

        def logits(self, pixels: np.ndarray) -> np.ndarray:
            return np.array([[0, 1], [0, np.nan], [np.inf, 0]], np.float32)

    pixels = np.zeros((2, 2, 3), np.uint8)
    batch = [Loaded(place, f"{place}.jpg", Picture(pixels)) for place in range(3)]
    predictions, problem = predict_batch(Broken(), batch, 1)  # type: ignore[arg-type]
    assert [prediction.path for prediction in predictions] == ["0.jpg"]
    assert isinstance(problem, DataError) and "1.jpg: the model's scores are not finite" in str(problem)


def test_decoded_pixels_are_predicted_as_files_are(finished_run: Path, images: Path, tlkit: Run) -> None:
    model = open_predictor(InferenceOptions(model=str(finished_run), device="cpu", precision="fp32"))
    paths = sorted(images.rglob("*.png"))[:3]
    with closing(open_decoder(0)) as decoder:
        pixels = [decoder.load(str(path), View(model.preprocessing)).pixels for path in paths]
    lines = tlkit("predict", finished_run, *paths, "--format", "jsonl", "--top-k", 2).out.splitlines()
    expected = [json.loads(line)["top"] for line in lines]
    tops = [best_labels(logits, model.classes, 2) for logits in model.logits(np.stack(pixels))]
    for found, top in zip(tops, expected, strict=True):
        assert [label for label, _ in found] == [entry["label"] for entry in top]
        assert [p for _, p in found] == pytest.approx([entry["probability"] for entry in top], abs=1e-5)


def test_records_before_an_image_without_numbers_are_written(
    finished_run: Path, images: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.commands.predict.open_predictor", without_numbers_for(2))
    result = tlkit("predict", finished_run, images, "--batch-size", 30, "--workers", 1)
    assert result.status == 65 and "blue/02.png: the model's scores are not finite" in result.err
    assert [line.split("\t")[0][-11:] for line in result.out.splitlines()] == ["blue/00.png", "blue/01.png"]


def test_empty_input_and_a_last_line_without_its_end(model: Path, images: Path) -> None:
    assert run_process("predict", model, stdin=b"").out == ""
    assert run_process("predict", model, stdin=b"").status == 66
    path = os.fsencode(all_images(images)[0])
    result = run_process("predict", model, "-", stdin=path + b"\n" + path)
    assert (result.status, len(result.out.splitlines())) == (0, 2)


def test_each_answer_comes_before_the_next_question(model: Path, images: Path) -> None:
    process = subprocess.Popen(command("predict", model, "-"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    for path in all_images(images)[:3]:
        process.stdin.write(os.fsencode(path) + b"\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith(os.fsencode(path))  # would wait for ever if it were held back
    process.stdin.close()
    assert process.wait(timeout=30) == 0
    process.stdout.close()


def test_a_reader_that_leaves_ends_it_silently(finished_run: Path, images: Path) -> None:
    listing = b"".join(os.fsencode(path) + b"\n" for path in all_images(images) * 40)
    process = subprocess.Popen(
        command("predict", finished_run, "--batch-size", 4),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(listing)
    process.stdin.close()
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == -signal.SIGPIPE
    assert process.stderr.read() == b""
    process.stderr.close()


def test_an_interrupt_while_waiting_for_paths(finished_run: Path, images: Path) -> None:
    process = subprocess.Popen(
        command("predict", finished_run, "-"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin and process.stdout
    process.stdin.write(os.fsencode(all_images(images)[0]) + b"\n")
    process.stdin.flush()
    process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert out == b"" and b"Traceback" not in err


def test_evaluate_for_people_and_programs(finished_run: Path, images: Path, tmp_path: Path, tlkit: Run) -> None:
    model = open_model(str(finished_run))
    files = [(path, label) for label, name in enumerate(model.classes) for path in all_images(images / name)]
    pixels = torch.from_numpy(
        np.stack([ThisProcess().load(str(path), View(model.preprocessing)).pixels for path, _ in files])
    )
    with torch.inference_mode():
        logits = model.network(normalize(pixels, model.preprocessing))
    labels = torch.tensor([label for _, label in files])
    expected = evaluate_rows(measured_rows(logits, labels), model.classes)
    result = json.loads(tlkit("evaluate", finished_run, images, "--split", "all", "--format", "json").out)
    assert result["images"] == 30
    assert result["confusion"] == expected.confusion.matrix().tolist()
    assert result["calibration_error"] == pytest.approx(expected.calibration.error, abs=1e-5)
    text = tlkit("evaluate", finished_run / "model.pt", images, "--split", "all").out
    assert f"accuracy {expected.figures['accuracy']:.4f}" in text
    assert all(name in text for name in model.classes)
    shutil.copytree(images, tmp_path / "data" / "test")
    tested = tlkit("evaluate", finished_run, tmp_path / "data")
    assert tested.status == 0 and f"{tmp_path}/data/test: 30 images" in tested.err
    strange = tmp_path / "strange"
    shutil.copytree(images / "red", strange / "pink")
    assert tlkit("evaluate", finished_run, strange).status == 65


def test_models_that_are_none(tmp_path: Path, images: Path, tlkit: Run) -> None:
    assert tlkit("predict", tmp_path / "missing", images).status == 66
    assert tlkit("predict", tmp_path, images).status == 65
    (tmp_path / "weights.safetensors").write_bytes(b"no tensors")
    assert tlkit("predict", tmp_path / "weights.safetensors", images).status == 65


def test_other_commands_know_a_reader_that_left_and_a_full_disk(model: Path, images: Path) -> None:
    arguments = command("evaluate", model, images)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as left:
        assert left.stdout and left.stderr
        left.stdout.close()
        err = left.stderr.read()
        assert left.wait() == -signal.SIGPIPE, err
    assert b"Error" not in err
    with open("/dev/full", "wb") as full:
        result = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE)
    assert result.returncode == 74 and b"standard output: cannot be written: No space left" in result.stderr


def test_closed_standard_streams_harm_nobody(model: Path, images: Path, tmp_path: Path) -> None:
    image, missing = all_images(images)[0], tmp_path / "missing.jpg"
    line = " ".join(map(shlex.quote, command("predict", model, image, missing)))
    without_input = subprocess.run(["sh", "-c", f"{line} <&-"], capture_output=True, text=True)
    assert without_input.returncode == 3 and without_input.stdout.startswith(f"{image}\t")
    without_errors = subprocess.run(["sh", "-c", f"{line} 2>&-"], capture_output=True, text=True)
    assert (without_errors.returncode, without_errors.stdout) == (3, without_input.stdout)
    without_output = subprocess.run(["sh", "-c", f"{line} >&-"], capture_output=True, text=True)
    assert without_output.returncode == 74 and "standard output: cannot be written" in without_output.stderr
    into_file = subprocess.run(["sh", "-c", f"{line} -o {tmp_path}/out.tsv >&-"], capture_output=True)
    assert into_file.returncode == 3 and (tmp_path / "out.tsv").read_text() == without_input.stdout


def test_evaluate_finds_validation_folders_of_every_name(
    images: Path, finished_run: Path, tmp_path: Path, tlkit: Run
) -> None:
    for part in ("train", "valid"):
        shutil.copytree(images, tmp_path / "data" / part)
    found = tlkit("evaluate", finished_run, tmp_path / "data", "--split", "val", "--format", "json")
    assert found.status == 0 and json.loads(found.out)["images"] == 30


def test_evaluate_says_when_it_measures_what_was_trained_on(
    images: Path, finished_run: Path, tmp_path: Path, tlkit: Run
) -> None:
    shutil.copytree(images, tmp_path / "moved")
    result = tlkit("evaluate", finished_run, tmp_path / "moved")
    assert result.status == 0 and "the model was trained on 30 images of these" in result.err


def test_of_equal_classes_the_first_comes_first() -> None:
    logits = np.array([0.0, 2.0, 2.0, -1.0, 2.0], np.float32)
    classes = ("a", "b", "c", "d", "e")
    assert [label for label, _ in best_labels(logits, classes, 9)] == ["b", "c", "e", "a", "d"]
    assert [label for label, _ in best_labels(logits, classes, 1)] == ["b"]
    probabilities = [probability for _, probability in best_labels(logits, classes, 5)]
    expected = torch.softmax(torch.from_numpy(logits).double(), 0).sort(descending=True).values
    assert probabilities == pytest.approx(expected.tolist(), abs=1e-12)
    assert best_labels(np.array([1e30, -1e30], np.float32), ("a", "b"), 1) == (("a", 1.0),)
