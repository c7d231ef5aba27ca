"""Runs that are stopped, starved and spoilt: what they leave, and that they go on to the same bits."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import BACKBONE, command, finetune_arguments
from tests.forked import Forked, Warm
from tests.kills import KINDS, Trial, fingerprint, options_of, read_checkpoint
from tests.matrix import CELLS, Matrix
from tlkit.files.artifact import digest
from tlkit.files.run_folder import RunFolder

TERM, KILL, INT = int(signal.SIGTERM), int(signal.SIGKILL), int(signal.SIGINT)


@pytest.fixture(scope="module")
def whole(images: Path, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six epochs of three steps that nobody stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    status, out, err = warm.run(finetune_arguments(images, run))
    assert (status, out) == (0, f"{run}/model.pt\n"), err
    return run


def status_of(run: Path) -> dict[str, Any]:
    """status.json, read as strictly as the strictest reader would."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    status = json.loads((run / "status.json").read_text(), parse_constant=refuse)
    assert {"state", "exit_code", "error", "epoch", "step", "best", "time"} <= status.keys()
    assert status["time"].endswith("Z")
    return status  # type: ignore[no-any-return]


def resumes_to(run: Path, whole: Path, warm: Warm) -> None:
    """A stopped run goes on to the bits of a whole one, and leaves nothing over."""
    status, out, err = warm.run(["resume", run])
    assert (status, out) == (0, f"{run}/model.pt\n"), err
    assert fingerprint(run) == fingerprint(whole)
    assert not list(run.rglob("*.tlkit-tmp"))
    assert status_of(run)["state"] == "finished"


@pytest.fixture(scope="module")
def matrix(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    return Matrix(warm, tmp_path_factory.mktemp("matrix"))


@pytest.mark.parametrize("cell", CELLS[::13], ids=lambda c: f"{c.threads}-{c.stop}-{c.workers}-{c.way}")
def test_stopped_anywhere(cell: Any, matrix: Matrix) -> None:
    """A sample of `make test-resume`."""
    assert matrix.differs(CELLS.index(cell), cell) == ""


@pytest.mark.parametrize("more", [[], ["--no-cache", "--augment", "light"]], ids=["vectors", "images"])
def test_three_stops_inside_one_epoch_and_other_workers_each_time(
    more: list[str], images: Path, tmp_path: Path, warm: Warm
) -> None:
    options = ["--batch-size", 3, "--epochs", 2, "--image-size", 64, *more]  # without folds 24 images train, in 8 steps
    options += [] if more else ["--folds", 1]
    assert warm.run(finetune_arguments(images, tmp_path / "whole", *options))[0] == 0
    run = tmp_path / "run"
    command = finetune_arguments(images, run, *options, "--workers", 1)
    for step, workers in ((9, 0), (11, 2), (14, 3)):
        stopped = warm.run(command, hook="interrupt_at_step", step=step, number=TERM)
        assert stopped[0] == -TERM, stopped[2]
        assert read_checkpoint(run / "checkpoints" / "last.pt")["progress"]["step_in_epoch"] == step + 1 - 8
        command = ["resume", str(run), "--workers", str(workers)]
    status, _, err = warm.run(command)
    assert status == 0, err
    assert fingerprint(run) == fingerprint(tmp_path / "whole")


def test_saving_after_every_step_changes_nothing(images: Path, whole: Path, tmp_path: Path, warm: Warm) -> None:
    run = tmp_path / "run"
    assert warm.run(finetune_arguments(images, run, "--save-every", 0))[0] == 0
    assert fingerprint(run) == fingerprint(whole)


@pytest.mark.parametrize("more", [[], ["--unfreeze", "layer4", "--augment", "light"]], ids=["vectors", "images"])
def test_every_step_is_the_same_line_by_line(more: list[str], images: Path, tmp_path: Path, warm: Warm) -> None:
    """Learning rate, loss and samples of each step; each sample once in each epoch."""

    def steps_of(name: str) -> list[Any]:
        rows = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        by_step: dict[int, Any] = {}
        for row in rows:
            assert by_step.setdefault(row[0], row) == row, "a step that was repeated was another one"
        return [by_step[step] for step in sorted(by_step)]

    options = ["--epochs", 3, "--image-size", 64, "--workers", 2, *(more or ["--folds", 1])]
    write = ["write_down_steps", {"file": str(tmp_path / "whole.log")}]
    whole = warm.run(finetune_arguments(images, tmp_path / "whole", *options), hook="chain", hooks=[write])
    assert whole[0] == 0, whole[2]
    write = ["write_down_steps", {"file": str(tmp_path / "cut.log")}]
    command = finetune_arguments(images, tmp_path / "cut", *options)
    for number, step in ((TERM, 1), (KILL, 4), (TERM, 7)):
        stop = ["interrupt_at_step", {"step": step, "number": number}]
        assert warm.run(command, hook="chain", hooks=[stop, write])[0] == -number
        command = ["resume", str(tmp_path / "cut")]
    assert warm.run(command, hook="chain", hooks=[write])[0] == 0
    expected = steps_of("whole.log")
    assert steps_of("cut.log") == expected
    assert [row[0] for row in expected] == list(range(9))
    for epoch in range(3):
        samples = [sample for row in expected[3 * epoch : 3 * epoch + 3] for sample in row[3]]
        assert sorted(samples) == list(range(24))


def test_a_frozen_backbone_does_not_change_by_a_byte(tmp_path: Path, images: Path, warm: Warm) -> None:
    """Neither parameters nor BatchNorm buffers, though the images pass it in training."""
    from tlkit.model.build import assemble
    from tlkit.options import FinetuneOptions

    run = tmp_path / "run"
    options = ["--no-cache", "--augment", "light", "--epochs", 2, "--image-size", 64]
    assert warm.run(finetune_arguments(images, run, *options))[0] == 0
    stored = FinetuneOptions.from_dict(json.loads((run / "options.json").read_text())["resolved"])
    classifier, _ = assemble(stored, ("blue", "green", "red"))
    before = classifier.backbone.network.state_dict()
    after = torch.load(run / "model.pt", weights_only=True)["model_state_dict"]
    frozen = [name for name in before if not name.startswith("fc.")]
    assert len(frozen) > 20 and any("running_mean" in name for name in frozen)
    assert digest([before[name] for name in frozen]) == digest([after[name] for name in frozen])


@pytest.mark.parametrize(
    ("call", "times"), [("fsync", (2, 6)), ("replace", (3, 7, 8)), ("unlink", (4, 30)), ("link", (2,))]
)
@pytest.mark.parametrize("number", [KILL, TERM], ids=["KILL", "TERM"])
def test_stopped_inside_a_commit(
    number: int, call: str, times: tuple[int, ...], images: Path, whole: Path, tmp_path: Path, warm: Warm
) -> None:
    """Of a checkpoint and of its names, and while old ones are removed: all that is there is whole."""
    for time_ in times:
        run = tmp_path / f"{time_}"
        arguments = finetune_arguments(images, run, "--keep-checkpoints", 2)
        status, _, err = warm.run(arguments, hook="interrupt_in_commit", time=time_, call=call, number=number)
        assert status == -number, err
        written = [read_checkpoint(file) for file in (run / "checkpoints").glob("epoch_*.pt")]
        assert all(read_checkpoint(file) for file in (run / "checkpoints").glob("*.pt"))
        newest = max((checkpoint["epoch"] for checkpoint in written), default=0)
        assert len(written) >= min(2, newest)
        if newest > 1:
            assert (run / "checkpoints" / "best.pt").exists() and (run / "checkpoints" / "last.pt").exists()
        resumes_to(run, whole, warm)


@pytest.mark.parametrize("call", ["fsync", "replace", "link"])
def test_a_disk_that_fails_inside_a_commit(call: str, images: Path, whole: Path, tmp_path: Path, warm: Warm) -> None:
    run = tmp_path / "run"
    status, out, err = warm.run(finetune_arguments(images, run), hook="fail_in_commit", time=5, call=call, errno=5)
    if call != "link":  # where links fail, files are copied
        assert (status, out) == (74, "")
        assert "cannot be written: Input/output error" in err and "Traceback" not in err
        assert not list(run.rglob("*.tlkit-tmp"))
    resumes_to(run, whole, warm)


def test_a_file_that_may_not_grow(images: Path, whole: Path, tmp_path: Path, warm: Warm) -> None:
    """What a full disk does, for everybody: the checkpoints fit, the model does not."""
    run = tmp_path / "run"
    status, out, err = warm.run(finetune_arguments(images, run), hook="limit_file_size", size=60_000)
    assert (status, out) == (74, "")
    needed = (whole / "model.pt").stat().st_size
    assert f"model.pt: cannot be written: File too large ({needed:,} bytes needed" in err
    assert status_of(run)["exit_code"] == 74 and "File too large" in status_of(run)["error"]
    assert not list(run.rglob("*.tlkit-tmp"))
    resumes_to(run, whole, warm)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of two megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True)
        if mounted.returncode != 0:
            pytest.skip("no file system can be mounted here")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("room", [30_000, 110_000, 500_000])
def test_a_full_disk(room: int, small_disk: Path, images: Path, whole: Path, warm: Warm) -> None:
    """At the first checkpoint, at a later one, or at the model; when there is room again the run goes on."""
    filler, run = small_disk / "filler", small_disk / "run"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - room))
    status, out, err = warm.run(finetune_arguments(images, run))
    assert (status, out) == (74, ""), err
    line = next(line for line in err.splitlines() if line.startswith("tlkit finetune: "))
    assert str(run) in line and "No space left on device" in line
    assert "bytes needed" in line and "bytes free" in line
    assert not list(run.rglob("*.tlkit-tmp"))
    filler.unlink()
    if (run / "options.json").exists():
        resumes_to(run, whole, warm)


@pytest.mark.parametrize("left", [0, 1, 3, 8])
def test_a_file_system_without_inodes_is_reported_as_such(left: int, images: Path, whole: Path, warm: Warm) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m,nr_inodes=40", "tmpfs", folder])
        if mounted.returncode != 0:
            pytest.skip("no file system can be mounted here")
        try:
            run, fillers = Path(folder) / "run", Path(folder) / "fillers"
            fillers.mkdir()
            for number in range(os.statvfs(folder).f_favail - left):
                (fillers / str(number)).touch()
            status, out, err = warm.run(finetune_arguments(images, run))
            assert (status, out) == (74, ""), err
            assert "cannot be written: the file system has no free inodes" in err and "bytes" not in err
            assert not list(Path(folder).rglob("*.tlkit-tmp"))
            shutil.rmtree(fillers)
            if (run / "options.json").exists():
                resumes_to(run, whole, warm)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_model_path_that_cannot_be_printed_is_the_status_of_the_run(finished_run: Path, tmp_path: Path) -> None:
    """Also after training on; printing it later is a success."""
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    with open("/dev/full", "wb") as full:
        for more in ([], ["--epochs", 9]):
            result = subprocess.run(command("resume", run, *more), stdout=full, stderr=subprocess.PIPE, text=True)
            assert result.returncode == 74 and "standard output: cannot be written: No space left" in result.stderr
            found = json.loads((run / "status.json").read_text())
            assert (found["state"], found["exit_code"]) == ("finished", 74)
            assert found["error"] == "standard output: cannot be written: No space left on device"
    assert subprocess.run(command("resume", run), capture_output=True).returncode == 0
    found = json.loads((run / "status.json").read_text())
    assert (found["exit_code"], found["error"], found["epoch"]) == (0, None, 9)


def test_a_message_comes_at_once_and_a_second_signal_does_not_wait(
    images: Path, whole: Path, tmp_path: Path, warm: Warm
) -> None:
    """While torch computes, which keeps Python from handling signals."""
    run, started, ended = tmp_path / "run", tmp_path / "started", tmp_path / "ended"
    hook = {"hook": "compute_at_step", "step": 7, "started": str(started), "ended": str(ended)}
    process = warm.start(finetune_arguments(images, run), **hook)
    wait_until(started.exists)
    process.send(INT)
    wait_until(lambda: "SIGINT: saving a checkpoint ..." in process.err.read_text())
    assert not ended.exists()
    wait_until(lambda: process.send(INT) or process.poll() is not None)  # two within a moment are one wish
    assert process.wait() == -INT
    assert not ended.exists()
    assert "Traceback" not in process.err.read_text()
    resumes_to(run, whole, warm)


def test_signals_in_a_pair_are_one_wish(images: Path, whole: Path, tmp_path: Path, warm: Warm) -> None:
    """A terminal that is closed sends SIGHUP, and so does its shell; others pass on what everybody got already."""
    run, started, ended = tmp_path / "run", tmp_path / "started", tmp_path / "ended"
    hook = {"hook": "compute_at_step", "step": 7, "started": str(started), "ended": str(ended)}
    process = warm.start(finetune_arguments(images, run), **hook)
    wait_until(started.exists)
    process.send(int(signal.SIGHUP))
    process.send(TERM)
    assert process.wait() in (-signal.SIGHUP, -TERM)
    assert ended.exists() and read_checkpoint(run / "checkpoints" / "last.pt")["step"] == 8
    assert status_of(run)["state"] == "interrupted"
    resumes_to(run, whole, warm)


def wait_until(true: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_while_the_model_is_written(
    number: signal.Signals, images: Path, whole: Path, tmp_path: Path, warm: Warm
) -> None:
    run = tmp_path / "run"
    for call in ("fsync", "replace"):
        shutil.rmtree(run, ignore_errors=True)
        hook = {"hook": "interrupt_in_commit", "call": call, "since": "model"}
        status, out, _ = warm.run(finetune_arguments(images, run), **hook, time=1, number=int(number))
        assert (status, out) == (-number, "")
        assert status_of(run)["exit_code"] == 128 + number
        assert not (run / "model.pt").exists()
        resumes_to(run, whole, warm)


@pytest.mark.parametrize("number", [KILL, TERM], ids=["KILL", "TERM"])
def test_stopped_at_random_instants(number: int, images: Path, tmp_path: Path, warm: Warm) -> None:
    """A small sample of `make test-kills`."""
    trial = Trial(warm, images, options_of(KINDS[0], number))
    expected = trial.uninterrupted(tmp_path / "whole")
    stops = 0
    for seed in range(10):
        record = trial.stopped(tmp_path / f"run{seed}", number, random.Random(seed), most=2)
        assert record.problems == []
        assert record.lost <= (1 if number == KILL else 0)
        assert fingerprint(tmp_path / f"run{seed}") == expected
        stops += record.stops
        if stops >= 2:  # on a busy machine a run may be over before its instant comes
            return
    raise AssertionError(f"stopped {stops} times in ten runs")


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_images(
    images: Path, whole: Path, tmp_path: Path, warm: Warm
) -> None:
    run = tmp_path / "run"
    log = ["write_down_steps", {"file": str(tmp_path / "log")}]
    spoil = ["spoil_step", {"step": 7, "what": "loss"}]
    arguments = finetune_arguments(images, run, "--save-every", 0)
    status, out, err = warm.run(arguments, hook="chain", hooks=[spoil, log])  # all 30 images train, in 4 steps
    assert (status, out) == (65, "")
    assert "tlkit finetune: epoch 2, step 8: the loss is nan at learning rate 0.00" in err
    told = status_of(run)
    assert (told["state"], told["exit_code"], told["code"]) == ("failed", 65, "nonfinite_loss")
    assert (told["epoch"], told["step"]) == (1, 7)
    assert "the loss is nan" in told["error"]
    assert len(told["files"]) == 6 and all(file in err for file in told["files"])
    whole_log = ["write_down_steps", {"file": str(tmp_path / "whole.log")}]
    again = warm.run(finetune_arguments(images, tmp_path / "again"), hook="chain", hooks=[whole_log])
    assert again[0] == 0
    samples = json.loads((tmp_path / "whole.log").read_text().splitlines()[7])[3]
    split = json.loads((run / "split.json").read_text())
    paths = [str(images / name) for part in split["train"].values() for name in part]
    assert told["files"] == [paths[sample] for sample in samples]
    assert read_checkpoint(run / "checkpoints" / "last.pt")["step"] == 7
    resumes_to(run, whole, warm)


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("what", ["gradient", "validation"])
def test_what_is_no_number_is_never_saved(
    what: str, value: str, images: Path, whole: Path, tmp_path: Path, warm: Warm
) -> None:
    run = tmp_path / "run"
    hook: dict[str, Any] = {"hook": "spoil_step", "step": 11, "what": what, "value": value}
    if what == "validation":
        hook = {"hook": "spoil_validation", "time": 3}
    status, _, err = warm.run(finetune_arguments(images, run, "--save-every", 0), **hook)
    assert status == 65 and "epoch 3, step 12: " in err and "are not finite" in err
    for file in (run / "checkpoints").glob("*.pt"):
        checkpoint = read_checkpoint(file)
        assert all(bool(tensor.isfinite().all()) for tensor in checkpoint["model_state_dict"].values())
        assert checkpoint["epoch"] <= 2
    assert status_of(run)["code"] == "nonfinite_loss"
    resumes_to(run, whole, warm)


@pytest.mark.parametrize(("error", "expected"), [("MemoryError", 71), ("torch", 71), ("cuda", 71), ("bug", 1)])
def test_memory_at_its_end_is_told_from_a_bug(
    error: str, expected: int, images: Path, whole: Path, tmp_path: Path, warm: Warm
) -> None:
    run = tmp_path / "run"
    status, out, err = warm.run(finetune_arguments(images, run), hook="fail_at_step", step=7, error=error)
    assert (status, out) == (expected, ""), err
    assert status_of(run)["exit_code"] == expected
    if expected == 71:
        assert "--batch-size 8" in err and "--batch-size 8" in status_of(run)["error"]
    before = (run / "options.json").read_bytes()
    resumes_to(run, whole, warm)
    assert (run / "options.json").read_bytes() == before


def light(arguments: list[str]) -> str:
    """The status of a command in a cold process, and whether it loaded torch."""
    code = f"import sys; from tlkit.cli import run; print(run({arguments!r}), 'torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()


def test_a_second_run_in_a_folder_is_turned_away_before_torch_is_loaded(
    images: Path, whole: Path, tmp_path: Path, warm: Warm
) -> None:
    run = tmp_path / "run"
    first = warm.start(finetune_arguments(images, run, "--epochs", 100_000))
    wait_until((run / "history.jsonl").exists)
    os.kill(first.pid, signal.SIGSTOP)
    before = snapshot(run)
    assert light(finetune_arguments(images, run)) == "73 False"
    assert light(["resume", str(run)]) == "73 False"
    assert snapshot(run) == before
    first.send(KILL)
    assert first.wait() == -KILL
    third = warm.start(["resume", run], hook="interrupt_at_step", step=10**9)
    wait_until(lambda: "resume" in third.err.read_text())
    third.send(TERM)
    assert third.wait() == -TERM


def snapshot(run: Path) -> dict[str, tuple[int, bytes]]:
    return {str(f): (f.stat().st_mtime_ns, f.read_bytes()) for f in run.rglob("*") if f.is_file()}


def test_a_place_that_cannot_be_written_to_is_told_before_torch_is_loaded(images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/run")):
        assert light(finetune_arguments(images, out)) == "73 False"
    assert light(["finetune", str(tmp_path / "nowhere")]) == "66 False"
    assert light(["finetune", str(tmp_path)]) == "65 False"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_without_permission(warm: Warm) -> None:
    from tests.conftest import write_folder

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        images = write_folder(root / "images", 2)
        (root / "closed").mkdir(mode=0o555)
        for out in (root / "closed", root / "closed" / "run"):
            status, _, err = warm.run(finetune_arguments(images, out), hook="as_user", number=65534)
            assert status == 73 and "Permission denied" in err
        (root / "unlisted").mkdir()
        (root / "unlisted").chmod(0o733)
        status, _, err = warm.run(finetune_arguments(images, root / "unlisted"), hook="as_user", number=65534)
        assert status == 73 and "unlisted: cannot be read: Permission denied" in err
        assert os.listdir(root / "closed") == []


def test_no_reader_ever_sees_a_part(images: Path, whole: Path, tmp_path: Path, warm: Warm) -> None:
    """Whoever opens the last checkpoint while it is written again and again, TMPDIR being elsewhere."""
    run, copy = tmp_path / "run", tmp_path / "copy.pt"
    arguments = finetune_arguments(images, run, "--save-every", 0)
    process = warm.start(arguments, environment={"TMPDIR": "/dev/shm"})
    seen: set[int] = set()
    while process.poll() is None:
        for file in (run / "checkpoints" / "last.pt", run / "status.json"):
            if file.exists():
                copy.write_bytes(file.read_bytes())
                seen.add(copy.stat().st_size)
                assert json.loads(copy.read_text()) if file.suffix == ".json" else read_checkpoint(copy)
    assert process.wait() == 0 and seen
    assert fingerprint(run) == fingerprint(whole)


def test_an_empty_environment_changes_nothing(images: Path, whole: Path, tmp_path: Path, warm: Warm) -> None:
    run = tmp_path / "run"
    odd = {"LANG": "C", "LC_ALL": "C", "TERM": "dumb", "COLUMNS": "0", "TZ": "America/St_Johns"}
    forget = ["forget", {"names": ["HOME"]}]
    stop = ["interrupt_at_step", {"step": 7, "number": TERM}]
    stopped = warm.run(finetune_arguments(images, run), environment=odd, hook="chain", hooks=[forget, stop])
    assert stopped[0] == -TERM
    status, out, err = warm.run(["resume", run], environment={**odd, "TZ": "Asia/Kathmandu"})
    assert (status, out) == (0, f"{run}/model.pt\n")
    assert "\x1b" not in stopped[2] + err
    assert fingerprint(run) == fingerprint(whole)


def test_checkpoints_name_no_home(images: Path, tmp_path: Path, warm: Warm) -> None:
    home = tmp_path / "home" / "someone"
    shutil.copytree(images, home / "photos")
    run = tmp_path / "run"
    environment = {"HOME": str(home)}
    arguments = finetune_arguments(home / "photos", run)
    stopped = warm.run(arguments, environment=environment, hook="interrupt_at_step", step=7, number=TERM)
    assert stopped[0] == -TERM
    for file in [*run.rglob("*.pt")]:
        assert b"someone" not in file.read_bytes()
    assert read_checkpoint(run / "checkpoints" / "last.pt")["options"]["data"] == "~/photos"
    shutil.copy(run / "checkpoints" / "last.pt", tmp_path / "lone.pt")
    (tmp_path / "home").rename(tmp_path / "moved")
    elsewhere = {"HOME": str(tmp_path / "moved" / "someone")}
    status, _, err = warm.run(["resume", tmp_path / "lone.pt", "--out", tmp_path / "new"], environment=elsewhere)
    assert status == 0, err


def test_validation_images_in_a_home_that_is_another_now(images: Path, tmp_path: Path, warm: Warm) -> None:
    from tests.conftest import write_folder

    home, run = tmp_path / "home", tmp_path / "run"
    arguments = finetune_arguments(images, run, "--val", write_folder(home / "val", 2, 100))
    hook = {"hook": "interrupt_at_step", "step": 7, "number": TERM}
    assert warm.run(arguments, environment={"HOME": str(home)}, **hook)[0] == -TERM
    assert read_checkpoint(run / "checkpoints" / "last.pt")["options"]["val"] == "~/val"
    status, _, err = warm.run(["resume", run], environment={"HOME": str(tmp_path / "another")})
    assert status == 0, err


def steps_done(file: Path) -> int:
    return int(struct.unpack("q", file.read_bytes())[0])


def test_a_kill_costs_no_more_than_what_was_asked_for(images: Path, tmp_path: Path, warm: Warm) -> None:
    run, steps = tmp_path / "run", tmp_path / "steps"
    steps.write_bytes(bytes(8))
    hooks = [["count_steps", {"file": str(steps)}], ["interrupt_at_step", {"step": 8, "number": KILL}]]
    for every, lost in ((0, 0), (300, 0)):
        shutil.rmtree(run, ignore_errors=True)
        arguments = finetune_arguments(images, run, "--save-every", every)
        assert warm.run(arguments, hook="chain", hooks=hooks)[0] == -KILL
        assert steps_done(steps) == 8
        assert read_checkpoint(run / "checkpoints" / "last.pt")["step"] == 8 - lost


def test_what_was_saved_before_inside_the_epoch_is_there_if_the_last_is_damaged(
    images: Path, whole: Path, tmp_path: Path, warm: Warm
) -> None:
    run = tmp_path / "run"
    arguments = finetune_arguments(images, run, "--save-every", 0)
    assert warm.run(arguments, hook="interrupt_at_step", step=10, number=KILL)[0] == -KILL
    last = run / "checkpoints" / "last.pt"
    assert read_checkpoint(last)["step"] == 10
    os.truncate(last, 1000)
    status, _, err = warm.run(["resume", run])
    assert status == 0 and "resuming from previous.pt (epoch 2, step 9)" in err
    assert fingerprint(run) == fingerprint(whole)
    assert not (run / "checkpoints" / "previous.pt").exists()


def test_a_run_is_nobodys_child(warm: Warm, images: Path, tmp_path: Path) -> None:
    """The helper itself: an exit status, a signal and the streams come through."""
    process: Forked = warm.start(["finetune", tmp_path / "nowhere"])
    assert process.wait() == 66 and "No such file" in process.err.read_text()
    assert warm.run(["--version"])[1].startswith("tlkit ")
    killed = warm.start(finetune_arguments(images, tmp_path / "run"), hook="interrupt_at_step", step=0, number=KILL)
    assert killed.wait() == -KILL
    assert BACKBONE in killed.err.read_text()
    assert RunFolder(str(tmp_path / "run")).checkpoint_files() == []
