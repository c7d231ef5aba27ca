"""predict and evaluate, as a pipeline and a person use them."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import Run, command, run_process, write_image
from tlkit.commands.models import open_model
from tlkit.commands.predict import best_labels, load_batches
from tlkit.data.batches import normalise
from tlkit.data.decoders import Picture, ThisProcess
from tlkit.data.image_file import IMAGE_ERROR_CODES
from tlkit.data.view import View
from tlkit.training.metrics import evaluate_logits


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


def test_batches_and_workers_change_nothing(finished_run: Path, images: Path, tlkit: Run) -> None:
    def probabilities(*options: object) -> list[tuple[str, str, float]]:
        lines = tlkit("predict", finished_run, images, *options).out.splitlines()
        cells = [line.split("\t") for line in lines]
        return [(path, label, float(p)) for path, label, p in cells]

    expected = probabilities("--batch-size", 1, "--workers", 1)
    for options in (["--batch-size", 64], ["--batch-size", 7, "--workers", 3]):
        found = probabilities(*options)
        assert [row[:2] for row in found] == [row[:2] for row in expected]
        assert [row[2] for row in found] == pytest.approx([row[2] for row in expected], abs=1e-5)


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


def test_a_list_on_standard_input_with_names_of_all_kinds(finished_run: Path, tmp_path: Path) -> None:
    names = [
        b"plain.png",
        b"two words.png",
        b"tab\there.png",
        b"line\nbreak.png",
        b"caf\xe9.png",
        b"-dash.png",
        b"\xe2\x80\xa8.png",
    ]
    folder = os.fsencode(tmp_path)
    for name in names:
        write_image(tmp_path / "x.png", (200, 40, 40), 1)
        os.rename(tmp_path / "x.png", os.path.join(folder, name))
    listed = b"".join(os.path.join(folder, name) + b"\0" for name in names)
    result = subprocess.run(
        command("predict", finished_run, "-0", "-", "--format", "jsonl"), input=listed, capture_output=True
    )
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    found = [os.fsencode(r["path"]) if "path" in r else base64.b64decode(r["path_bytes"]) for r in records]
    assert found == [os.path.join(folder, name) for name in names]
    table = subprocess.run(command("predict", finished_run, "-0"), input=listed, capture_output=True)
    lines = table.stdout.split(b"\n")
    assert len(lines) == len(names) + 1
    assert lines[2].startswith(folder + rb"/tab\there.png" + b"\t")
    assert lines[3].startswith(folder + rb"/line\nbreak.png" + b"\t")
    assert lines[4].startswith(folder + b"/caf\xe9.png\t")


def test_empty_input_and_a_last_line_without_its_end(finished_run: Path, images: Path) -> None:
    assert run_process("predict", finished_run, stdin=b"").out == ""
    assert run_process("predict", finished_run, stdin=b"").status == 0
    path = os.fsencode(all_images(images)[0])
    result = run_process("predict", finished_run, "-", stdin=path + b"\n" + path)
    assert (result.status, len(result.out.splitlines())) == (0, 2)


def test_each_answer_comes_before_the_next_question(finished_run: Path, images: Path) -> None:
    process = subprocess.Popen(command("predict", finished_run, "-"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
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


def test_a_full_disk_behind_standard_output(finished_run: Path, images: Path) -> None:
    with open("/dev/full", "wb") as full:
        result = subprocess.run(command("predict", finished_run, images), stdout=full, stderr=subprocess.PIPE)
    assert result.returncode == 74
    assert result.stderr.startswith(b"tlkit predict: standard output: cannot be written")


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
        logits = model.network(normalise(pixels, model.preprocessing))
    expected = evaluate_logits(logits, torch.tensor([label for _, label in files]), model.classes)
    result = json.loads(tlkit("evaluate", finished_run, images, "--split", "all", "--format", "json").out)
    assert result["images"] == 30
    assert result["confusion"] == expected.confusion.tolist()
    assert result["calibration_error"] == pytest.approx(expected.calibration_error, abs=1e-5)
    text = tlkit("evaluate", finished_run / "model.pt", images, "--split", "all").out
    assert f"accuracy {expected.accuracy:.4f}" in text
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


def test_every_command_knows_a_reader_that_left_and_a_full_disk(finished_run: Path, images: Path) -> None:
    for arguments in (["backbones"], ["evaluate", finished_run, images], ["summary", finished_run]):
        with subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as left:
            assert left.stdout and left.stderr
            left.stdout.close()
            err = left.stderr.read()
            assert left.wait() == -signal.SIGPIPE, err
        assert b"Error" not in err
        with open("/dev/full", "wb") as full:
            result = subprocess.run(command(*arguments), stdout=full, stderr=subprocess.PIPE)
        assert result.returncode == 74 and b"standard output: cannot be written: No space left" in result.stderr


def test_closed_standard_streams_harm_nobody(finished_run: Path, images: Path, tmp_path: Path) -> None:
    image, missing = all_images(images)[0], tmp_path / "missing.jpg"
    line = " ".join(map(shlex.quote, command("predict", finished_run, image, missing)))
    without_input = subprocess.run(["sh", "-c", f"{line} <&-"], capture_output=True, text=True)
    assert without_input.returncode == 3 and without_input.stdout.startswith(f"{image}\t")
    without_errors = subprocess.run(["sh", "-c", f"{line} 2>&-"], capture_output=True, text=True)
    assert (without_errors.returncode, without_errors.stdout) == (3, without_input.stdout)
    assert subprocess.run(["sh", "-c", f"{line} >&-"], capture_output=True).returncode == 3


def test_an_answer_does_not_wait_for_a_slow_image_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    class Slow:
        def load(self, path: str, view: object) -> Picture:
            if path == "slow":
                release.wait(30)
            return Picture(np.zeros((2, 2, 3), np.uint8))

    batches = load_batches(iter(["quick", "slow"]), Slow(), None, 16, 2)  # type: ignore[arg-type]
    assert [item.path for item in next(batches)] == ["quick"]
    release.set()
    assert [item.path for item in next(batches)] == ["slow"]


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
    assert result.status == 0 and "the model was trained on 24 images of these" in result.err


def test_of_equal_classes_the_first_comes_first() -> None:
    logits = np.array([0.0, 2.0, 2.0, -1.0, 2.0], np.float32)
    classes = ("a", "b", "c", "d", "e")
    assert [label for label, _ in best_labels(logits, classes, 9)] == ["b", "c", "e", "a", "d"]
    assert [label for label, _ in best_labels(logits, classes, 1)] == ["b"]
    probabilities = [probability for _, probability in best_labels(logits, classes, 5)]
    expected = torch.softmax(torch.from_numpy(logits).double(), 0).sort(descending=True).values
    assert probabilities == pytest.approx(expected.tolist(), abs=1e-12)
    assert best_labels(np.array([1e30, -1e30], np.float32), ("a", "b"), 1) == (("a", 1.0),)
