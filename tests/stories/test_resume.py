"""Stopped runs that go on: the same bits as if they had never stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Run, command, finetune_arguments, write_folder, write_image
from tests.data.odd_images import BAD
from tests.forked import Warm
from tests.kills import fingerprint
from tlkit.files.artifact import read_artifact, write_artifact
from tlkit.files.run_folder import RunFolder


@pytest.mark.parametrize("more", [[], ["--augment", "light", "--unfreeze", "layer4"]], ids=["vectors", "images"])
@pytest.mark.parametrize("stop", [1, 4])
def test_stopped_after_any_epoch(stop: int, more: list[object], images: Path, tmp_path: Path, tlkit: Run) -> None:
    """The schedule depends on the planned epochs, so the stop is a kill after one of them, not a shorter plan."""
    assert tlkit(*finetune_arguments(images, tmp_path / "whole", *more)).status == 0
    assert tlkit(*finetune_arguments(images, tmp_path / "cut", "--keep-checkpoints", 9, *more)).status == 0
    cut = tmp_path / "cut"
    go_back_to(cut, stop)
    resumed = tlkit("resume", cut)
    assert resumed.status == 0
    assert resumed.out == f"{cut}/model.pt\n"
    assert fingerprint(cut) == fingerprint(tmp_path / "whole")


def go_back_to(run: Path, epoch: int) -> None:
    """Leave a finished run as a kill after that epoch would have."""
    checkpoints = run / "checkpoints"
    for file in checkpoints.glob("epoch_*"):
        if int(file.name.split("_")[1]) == epoch:
            (checkpoints / "last.pt").unlink()
            os.link(file, checkpoints / "last.pt")
    best = torch.load(checkpoints / "last.pt", weights_only=True)["progress"]["best"]["epoch"]
    (checkpoints / "best.pt").unlink()
    os.link(next(checkpoints.glob(f"epoch_{best:04d}_*")), checkpoints / "best.pt")
    (run / "model.pt").unlink()


def test_a_finished_run_is_left_alone(finished_run: Path, tlkit: Run) -> None:
    before = {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in finished_run.rglob("*") if f.is_file()}
    result = tlkit("resume", finished_run)
    assert (result.status, result.out) == (0, f"{finished_run}/model.pt\n")
    assert before == {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in finished_run.rglob("*") if f.is_file()}


def test_epochs_extends_a_run(finished_run: Path, tmp_path: Path, tlkit: Run) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    result = tlkit("resume", run, "--epochs", 9)
    assert result.status == 0
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, 10))
    assert json.loads((run / "options.json").read_text())["resolved"]["epochs"] == 9


def figures_of(run: Path) -> dict[str, Any]:
    figures: dict[str, Any] = read_artifact(str(run / "model.pt"), "tlkit-model")["figures"]
    return figures


def test_an_extension_that_was_stopped_before_its_model_is_not_finished(
    images: Path, tmp_path: Path, warm: Warm
) -> None:
    """The model that is there is whole, but of before."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert warm.run(finetune_arguments(images, run, "--epochs", 2, "--metric", "loss"))[0] == 0
    before = figures_of(run)
    shutil.copytree(run, whole)
    assert warm.run(["resume", whole, "--epochs", 5])[0] == 0
    hook = {"hook": "interrupt_in_commit", "since": "model", "call": "replace", "number": int(signal.SIGKILL)}
    assert warm.run(["resume", run, "--epochs", 5], **hook, time=1)[0] == -signal.SIGKILL
    assert figures_of(run) == before
    status, out, err = warm.run(["resume", run])
    assert (status, out) == (0, f"{run}/model.pt\n"), err
    assert figures_of(run)["epoch"] == figures_of(whole)["epoch"] != before["epoch"]
    assert fingerprint(run) == fingerprint(whole)
    assert "is finished" in warm.run(["resume", run])[2]


@pytest.mark.parametrize("val", ["images/val", "{here}/images/val", "./images/../images/val"])
def test_validation_images_inside_the_data_however_they_are_named(
    val: str, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "images" / "train", 4)
    write_folder(tmp_path / "images" / "val", 2, 100)
    monkeypatch.chdir(tmp_path)
    arguments = finetune_arguments(tmp_path, tmp_path / "run", "--val", val.format(here=tmp_path), "--epochs", 2)
    arguments[1] = "./images"
    assert tlkit(*arguments).status == 0
    assert json.loads((tmp_path / "run" / "split.json").read_text())["val"]["red"][0] == "val/red/00.png"
    result = tlkit("resume", tmp_path / "run", "--epochs", 3)
    assert result.status == 0, result.err


def test_what_was_refused_is_not_remembered(images: Path, tmp_path: Path, tlkit: Run) -> None:
    run, wrong = tmp_path / "run", tmp_path / "wrong"
    assert tlkit(*finetune_arguments(images, run)).status == 0
    options = (run / "options.json").read_bytes()
    shutil.copytree(images, wrong)
    (wrong / "red" / "00.png").unlink()
    refused = tlkit("resume", run, "--epochs", 8, "--data", wrong)
    assert refused.status in (65, 78) and refused.out == ""
    assert (run / "options.json").read_bytes() == options
    assert tlkit("resume", run).status == 0 and tlkit("resume", run, "--epochs", 8).status == 0
    assert json.loads((run / "options.json").read_text())["resolved"]["epochs"] == 8


def test_a_new_folder_is_as_it_was_if_going_on_in_it_fails(finished_run: Path, tmp_path: Path, tlkit: Run) -> None:
    checkpoint, out = tmp_path / "ckpt.pt", tmp_path / "new"
    content = read_artifact(str(finished_run / "checkpoints" / "last.pt"), "tlkit-checkpoint")
    sha256, content["backbone"]["sha256"] = content["backbone"]["sha256"], "0" * 64
    write_artifact(str(checkpoint), "tlkit-checkpoint", content)
    out.mkdir()
    for _ in range(2):
        refused = tlkit("resume", checkpoint, "--out", out, "--epochs", 8)
        assert refused.status == 78 and "other weights" in refused.err
        assert os.listdir(out) == []
    content["backbone"]["sha256"] = sha256
    write_artifact(str(checkpoint), "tlkit-checkpoint", content)
    assert tlkit("resume", checkpoint, "--out", out, "--epochs", 8).status == 0


def test_a_run_that_goes_on_elsewhere_begins_with_what_was_read(finished_run: Path, tmp_path: Path) -> None:
    """The file may be another by then, if the run is alive."""
    from tlkit.runs.checkpoints import read_checkpoint
    from tlkit.runs.resume import initial_checkpoints

    checkpoints, new = tmp_path / "run" / "checkpoints", RunFolder(str(tmp_path / "new"))
    shutil.copytree(finished_run, tmp_path / "run")
    read = read_checkpoint(str(checkpoints / "last.pt"))
    shutil.copy(next(checkpoints.glob("epoch_0004_*")), checkpoints / "last.pt")
    initial = initial_checkpoints(new, read)
    assert initial[new.last_checkpoint] is read
    assert read.best is not None and initial[new.best_checkpoint].epoch == read.best.epoch


def test_a_lone_checkpoint_goes_on_in_a_new_folder(finished_run: Path, tmp_path: Path, tlkit: Run) -> None:
    shutil.copy(finished_run / "checkpoints" / "last.pt", tmp_path / "ckpt.pt")
    result = tlkit("resume", tmp_path / "ckpt.pt", "--out", tmp_path / "new", "--epochs", 8)
    assert result.status == 0
    assert result.out == f"{tmp_path}/new/model.pt\n"
    assert len((tmp_path / "new" / "history.jsonl").read_text().splitlines()) == 8


def test_an_older_checkpoint_is_not_taken_silently(finished_run: Path, tmp_path: Path, tlkit: Run) -> None:
    older = next((finished_run / "checkpoints").glob("epoch_0004_*"))
    refused = tlkit("resume", older)
    assert refused.status == 78 and "--out" in refused.err
    branched = tlkit("resume", older, "--out", tmp_path / "branch")
    assert branched.status == 0
    assert fingerprint(tmp_path / "branch")["last"] == fingerprint(finished_run)["last"]


def test_other_images_or_weights_are_refused(images: Path, tmp_path: Path, tlkit: Run) -> None:
    data = tmp_path / "data"
    shutil.copytree(images, data)
    assert tlkit(*finetune_arguments(data, tmp_path / "run")).status == 0
    shutil.copy(tmp_path / "run" / "checkpoints" / "last.pt", tmp_path / "ckpt.pt")
    write_image(data / "red" / "new.png", (200, 40, 40), 77)
    changed = tlkit("resume", tmp_path / "ckpt.pt", "--out", tmp_path / "new", "--epochs", 8)
    assert changed.status == 78 and "added, removed, renamed or damaged" in changed.err
    assert not (tmp_path / "new").exists()
    content = read_artifact(str(tmp_path / "run" / "checkpoints" / "last.pt"), "tlkit-checkpoint")
    content["backbone"]["sha256"] = "0" * 64
    write_artifact(str(tmp_path / "run" / "checkpoints" / "last.pt"), "tlkit-checkpoint", content)
    other = tlkit("resume", tmp_path / "run", "--epochs", 8)
    assert other.status == 78 and "other weights" in other.err


def test_images_that_are_gone_are_not_dropped_in_silence(images: Path, tmp_path: Path, tlkit: Run) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(images, data)
    assert tlkit(*finetune_arguments(data, run, "--skip-bad")).status == 0
    split = (run / "split.json").read_bytes()
    gone = data / json.loads(split)["train"]["red"][0]
    content = gone.read_bytes()
    gone.unlink()
    refused = tlkit("resume", run, "--epochs", 8)
    assert refused.status == 78 and gone.name in refused.err
    assert (run / "split.json").read_bytes() == split
    gone.write_bytes(content)
    assert tlkit("resume", run, "--epochs", 8).status == 0


def test_a_run_with_skipped_images_goes_on_elsewhere(images: Path, tmp_path: Path, tlkit: Run) -> None:
    data = tmp_path / "data"
    shutil.copytree(images, data)
    (data / "red" / "text.jpg").write_text("this is no picture")
    assert tlkit(*finetune_arguments(data, tmp_path / "run", "--skip-bad")).status == 3
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    assert tlkit("resume", last, "--out", tmp_path / "new", "--epochs", 8).status == 3
    assert (tmp_path / "new" / "skipped.jsonl").read_text() == (tmp_path / "run" / "skipped.jsonl").read_text()


def test_a_checkpoint_alone_finds_the_images_that_were_skipped(images: Path, tmp_path: Path, tlkit: Run) -> None:
    """Also one whose damage only decoding shows."""
    data = tmp_path / "data"
    shutil.copytree(images, data)
    BAD["damaged_pixels.png"][1](data / "red" / "damaged.png")
    assert tlkit(*finetune_arguments(data, tmp_path / "run", "--skip-bad")).status == 3
    shutil.copy(tmp_path / "run" / "checkpoints" / "last.pt", tmp_path / "alone.pt")
    shutil.rmtree(tmp_path / "run")
    resumed = tlkit("resume", tmp_path / "alone.pt", "--out", tmp_path / "new", "--epochs", 8)
    assert resumed.status == 3, resumed.err
    assert "damaged.png" in (tmp_path / "new" / "skipped.jsonl").read_text()


def test_an_image_that_was_skipped_all_along_is_not_blamed(images: Path, tmp_path: Path, tlkit: Run) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(images, data)
    (data / "red" / "text.jpg").write_text("this is no picture")
    assert tlkit(*finetune_arguments(data, run, "--skip-bad")).status == 3
    split = json.loads((run / "split.json").read_text())
    for part in ("train", "val", "folds"):
        split[part]["red"].pop()
    (run / "split.json").write_text(json.dumps(split))
    refused = tlkit("resume", run, "--epochs", 8)
    assert refused.status == 78 and "its images differ from those of the checkpoint" in refused.err
    assert "text.jpg" not in refused.err


def test_a_run_that_stopped_early_says_so_and_goes_on_with_more_patience(
    images: Path, tmp_path: Path, tlkit: Run
) -> None:
    run = tmp_path / "run"
    assert tlkit(*finetune_arguments(images, run, "--epochs", 9, "--patience", 1, "--learning-rate", 0)).status == 0
    stopped = tlkit("resume", run, "--epochs", 12)
    assert stopped.status == 0 and "stopped by --patience 1" in stopped.err
    assert tlkit("resume", run, "--patience", 4).status == 0
    assert len((run / "history.jsonl").read_text().splitlines()) == 5


def test_what_is_no_checkpoint(tmp_path: Path, tlkit: Run) -> None:
    (tmp_path / "text.pt").write_text("no checkpoint")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    assert tlkit("resume", tmp_path / "missing.pt").status == 66
    assert tlkit("resume", tmp_path / "text.pt").status == 65
    assert tlkit("resume", tmp_path / "other.pt").status == 65
    assert tlkit("resume", tmp_path).status == 65
    for name in ("text.pt", "other.pt"):
        assert tlkit("predict", tmp_path / name, tmp_path / "a.png").status == 65


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_leaves_a_checkpoint_and_the_right_status(
    number: signal.Signals, images: Path, tmp_path: Path, warm: Warm
) -> None:
    run = tmp_path / "run"
    process = warm.start(finetune_arguments(images, run, "--epochs", 2000))
    wait_for(run / "history.jsonl")
    process.send(number)
    assert process.wait(30) == -number
    assert process.out.read_text() == ""
    err = process.err.read_text()
    assert f"{number.name}: saving a checkpoint ..." in err and "tlkit resume" in err and "Traceback" not in err
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("interrupted", 128 + number)
    stopped = read_artifact(str(run / "checkpoints" / "last.pt"), "tlkit-checkpoint")
    assert 0 < stopped["step"] < 2000 * 3
    # Shortening the plan changes the schedule, but going on from the very step must work.
    assert warm.run(["resume", run, "--epochs", stopped["epoch"] + 2])[0] == 0


@pytest.mark.parametrize("seconds", [0, 0.7])
def test_a_signal_while_torch_is_loaded_leaves_nothing(seconds: float, images: Path, tmp_path: Path) -> None:
    """In a cold process, as soon as the images were found, or a little later."""
    arguments = command(*finetune_arguments(images, tmp_path / "runs" / "run"))
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stderr.readline().startswith(b"data")
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM and out == b""
    assert b"SIGTERM: stopping ..." in err and b"Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_a_signal_in_the_last_commit_is_not_forgotten(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tlkit: Run
) -> None:
    from tlkit.cli import invoke
    from tlkit.interruption import Interrupted
    from tlkit.runs.checkpoints import Checkpointer
    from tlkit.training.state import TrainingState

    original = Checkpointer.commit_epoch

    def commit_epoch(self: Checkpointer, state: TrainingState, is_best: bool) -> None:
        original(self, state, is_best)
        if state.epoch == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Checkpointer, "commit_epoch", commit_epoch)
    with pytest.raises(Interrupted):
        invoke(finetune_arguments(images, tmp_path / "run"))
    assert not (tmp_path / "run" / "model.pt").exists()
    monkeypatch.setattr(Checkpointer, "commit_epoch", original)
    assert tlkit("resume", tmp_path / "run").status == 0


def test_signals_that_were_ignored_stay_ignored(images: Path, tmp_path: Path) -> None:
    """As nohup does."""
    run = tmp_path / "run"
    process = subprocess.Popen(
        command(*finetune_arguments(images, run, "--epochs", 30)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    wait_for(run / "history.jsonl")
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out.decode()) == (0, f"{run}/model.pt\n")


def test_stopped_inside_an_epoch(images: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal between two steps, at every step of the third epoch."""
    from tlkit.runs.batches import Stoppable

    whole = tmp_path / "whole"
    assert tlkit(*finetune_arguments(images, whole, "--head", "mlp")).status == 0
    original = Stoppable.epoch
    for step in range(4):
        run = tmp_path / f"run{step}"

        def epoch(self: Stoppable, epoch: int, first_step: int = 0, stop: int = step) -> object:
            for number, batch in enumerate(original(self, epoch, first_step)):
                if epoch == 2 and number == stop:
                    self.signals.requested = signal.SIGUSR1
                    self.signals.raise_if_requested()
                yield batch

        monkeypatch.setattr(Stoppable, "epoch", epoch)
        from tlkit.interruption import Interrupted

        with pytest.raises(Interrupted):
            from tlkit.cli import invoke

            invoke(finetune_arguments(images, run, "--head", "mlp"))
        monkeypatch.setattr(Stoppable, "epoch", original)
        assert torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"] == 8 + step
        assert tlkit("resume", run).status == 0
        assert fingerprint(run) == fingerprint(whole)


def wait_for(path: Path, seconds: float = 60) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def test_a_fold_whose_images_are_all_skipped(tmp_path: Path, tlkit: Run) -> None:
    """The number of folds stays, so the heads of a checkpoint fit."""
    from tests.conftest import write_folder

    data, run = write_folder(tmp_path / "data", 2), tmp_path / "run"
    assert tlkit(*finetune_arguments(data, run, "--folds", 6, "--epochs", 2)).status == 0
    split = json.loads((run / "split.json").read_text())
    (last,) = [
        (c, n) for c in split["train"] for n, k in zip(split["train"][c], split["folds"][c], strict=True) if k == 5
    ]
    path = data / last[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF  # found when the image is decoded, after the folds are dealt
    path.write_bytes(content)
    skipping = tmp_path / "skipping"
    assert tlkit(*finetune_arguments(data, skipping, "--folds", 6, "--epochs", 2, "--skip-bad")).status == 3
    resumed = tlkit("resume", skipping, "--epochs", 3)
    assert resumed.status == 3, resumed.err


def test_fewer_epochs_than_were_trained_are_refused(images: Path, tmp_path: Path, tlkit: Run) -> None:
    run = tmp_path / "run"
    assert tlkit(*finetune_arguments(images, run)).status == 0
    before = (run / "status.json").read_bytes()
    refused = tlkit("resume", run, "--epochs", 3)
    assert (
        refused.status == 2 and "the run has trained 6 epochs already" in refused.err and "--epochs 26" in refused.err
    )
    assert (run / "status.json").read_bytes() == before
    assert tlkit("resume", run, "--epochs", 6).status == 0
