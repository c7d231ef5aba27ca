"""Mistakes of new users: each gets one helpful line, and advice that works when typed."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.conftest import Run, finetune_arguments


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "my run"))


def test_a_moved_folder_is_named_with_the_option_that_finds_it(images: Path, tmp_path: Path, tlkit: Run) -> None:
    shutil.copytree(images, tmp_path / "photos")
    run, moved = tmp_path / "my run", tmp_path / "elsewhere"
    assert tlkit(*finetune_arguments(tmp_path / "photos", run)).status == 0
    (tmp_path / "photos").rename(moved)
    outcome = tlkit("resume", run, "--epochs", 9)
    advice = f"If it has moved, name its new place: tlkit resume '{run}' --data DIR"
    assert (outcome.status, outcome.out) == (66, "")
    assert outcome.err.splitlines()[-2:] == [
        f"tlkit resume: {tmp_path / 'photos'}: no such folder; the images of the run were in it", advice
    ]  # fmt: skip
    typed = shlex.split(advice.partition("tlkit ")[2].replace("DIR", str(moved)))
    missing = sorted(moved.rglob("*.png"))[:12]
    for file in missing:
        file.rename(file.with_suffix(".hidden"))
    outcome = tlkit(*typed, "--epochs", 9)
    lines = outcome.err.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("tlkit resume"))
    assert outcome.status == 65 and "12 images of" in lines[start]
    assert len(lines) - start == 14 and lines[start + 11] == "  and 2 more"
    assert lines[start + 12 :] == ["Restore them.", "If the folder has moved, name its new place with --data DIR."]
    for file in missing:
        file.with_suffix(".hidden").rename(file)
    assert tlkit(*typed, "--epochs", 9).status == 0


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tiff"])
def test_an_image_in_the_place_of_a_model(suffix: str, tmp_path: Path, tlkit: Run) -> None:
    from tests.conftest import write_image

    image = tmp_path / f"photo.{suffix}"
    write_image(image, (200, 10, 10), 1)
    for command in ("predict", "summary", "resume"):
        outcome = tlkit(command, image, *([image] if command == "predict" else []))
        assert outcome.status == 65
        expected = (
            f"tlkit {command}: {image}: is an image; expected a run folder, a checkpoint, model.pt or an exported"
        )
        assert outcome.err.startswith(expected) and len(outcome.err.splitlines()) == 1


def test_a_run_folder_in_the_place_of_images(run: Path, tlkit: Run) -> None:
    for words in (["finetune", run], ["check", run], ["evaluate", run, run]):
        outcome = tlkit(*words)
        assert outcome.status == 65
        assert outcome.err.splitlines()[-2:] == [
            f"tlkit {words[0]}: {run}: is a run folder; expected a folder of images",
            f"To continue this run: tlkit resume '{run}'",
        ]


def test_a_list_with_windows_line_ends(run: Path, images: Path, tmp_path: Path, tlkit: Run) -> None:
    image = next(images.rglob("*.png"))
    outcome = tlkit("predict", run, f"{image}\r")
    assert outcome.status == 4 or outcome.status == 3
    assert "for a list with Windows line ends, add --crlf" in outcome.err


def test_a_run_without_a_finished_epoch(run: Path, images: Path, tlkit: Run) -> None:
    shutil.rmtree(run / "checkpoints")
    for name in ("model.pt", "model.onnx"):
        (run / name).unlink(missing_ok=True)
    outcome = tlkit("predict", run, next(images.rglob("*.png")))
    assert outcome.status == 65
    assert outcome.err.splitlines() == [
        f"tlkit predict: {run}: has no model yet: no epoch is finished", f"Resume with: tlkit resume '{run}'"
    ]  # fmt: skip


def test_a_finished_run_names_a_command_that_trains_on(run: Path, tlkit: Run) -> None:
    outcome = tlkit("resume", run)
    assert outcome.status == 0
    line = re.search(r"is finished; to train on: tlkit (.+)", outcome.err)
    assert line is not None
    words = shlex.split(line[1])
    assert words[:2] == ["resume", str(run)] and words[2] == "--epochs" and int(words[3]) > 0
