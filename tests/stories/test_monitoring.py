"""Logged runs: the tools' own readers find every epoch once, also after a kill or a failure."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from tests.conftest import COLOURS, Run, finetune_arguments, write_folder, write_image
from tests.forked import Warm
from tests.wandb_server import KEY, StoredRun, wandb_server
from tlkit.options.finetune import METRIC_NAMES

ALL = ["train/loss", "train/accuracy", *(f"val/{name}" for name in METRIC_NAMES), "learning_rate", "seconds",
       "images_per_second"]  # fmt: skip
OFFLINE = {"WANDB_MODE": "offline"}


@pytest.fixture(scope="module")
def mislabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, one of which in validation is in the wrong class folder."""
    root = tmp_path_factory.mktemp("mislabelled") / "colours"
    write_folder(root / "train", 8)
    write_folder(root / "val", 4, first_seed=500)
    write_image(root / "val" / "blue" / "red.png", COLOURS["red"], 7)
    return root


def history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def tensorboard_series(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars, as TensorBoard shows them."""
    reader = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def tensorboard_counts(run: Path) -> Counter[tuple[str, int]]:
    """How often each tag and step is in the files themselves."""
    files = sorted((run / "tensorboard").iterdir())
    events = (event for file in files for event in LegacyEventFileLoader(str(file)).Load())
    return Counter((value.tag, event.step) for event in events for value in event.summary.value)


def wandb_records(run: Path) -> list[dict[str, Any]]:
    """The records of the only W&B run on disk, read with W&B's own tool."""
    (file,) = (run / "wandb").glob("offline-run-*/run-*.wandb")
    spec = find_spec("wandb")
    assert spec is not None and spec.origin is not None
    tool = os.path.join(os.path.dirname(spec.origin), "bin", "wandb-core")
    read = subprocess.run(
        [tool, "leet", "inspect", "-no-observability", "-json", "-run-file", file],
        capture_output=True, check=True, env={**os.environ, "HOME": str(run)},
    )  # fmt: skip
    return [json.loads(line) for line in read.stdout.splitlines()]


def wandb_series(run: Path) -> list[dict[str, Any]]:
    rows = [record["history"]["item"] for record in wandb_records(run) if record["type"] == "history"]
    return [row for row in rows if "val/loss" in row]


def assert_whole_in_tensorboard(run: Path) -> None:
    """Assert that every epoch is logged once, with its figures."""
    series, rows = tensorboard_series(run), history(run)
    assert sorted(series) == sorted(ALL)
    for tag, points in series.items():
        name = tag.replace("/", "_")
        assert [step for step, _ in points] == [row["epoch"] for row in rows], tag
        assert [value for _, value in points] == pytest.approx([row[name] for row in rows], rel=1e-6)
    assert set(tensorboard_counts(run).values()) == {1}


def assert_whole_in_wandb(run: Path) -> None:
    """Assert that every epoch is logged once, with its figures."""
    found, rows = wandb_series(run), history(run)
    assert [row["_step"] for row in found] == [row["epoch"] for row in rows]
    for tag in ALL:
        assert [row[tag] for row in found] == [row[tag.replace("/", "_")] for row in rows], tag


def test_a_run_in_both_tools(warm: Warm, mislabelled: Path, tmp_path: Path) -> None:
    run, home = tmp_path / "run", tmp_path / "home"
    home.mkdir()
    arguments = finetune_arguments(mislabelled, run, "--log", "tensorboard", "--log", "wandb")
    environment = {"HOME": str(home), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    names = ["WANDB_MODE", "WANDB_API_KEY"]
    status, out, err = warm.run(arguments, environment=environment, hook="forget", names=names)
    assert (status, out) == (0, f"{run}/model.pt\n")
    assert "offline (no account); upload it with: wandb sync" in err and "warning" not in err
    assert json.loads((run / "options.json").read_text())["resolved"]["log"] == ["tensorboard", "wandb"]
    assert_whole_in_tensorboard(run)
    assert_whole_in_wandb(run)
    assert list(home.iterdir()) == [], "all files are in the run folder"
    reader = EventAccumulator(str(run / "tensorboard")).Reload()
    assert reader.Tags()["images"] == ["confusion matrix", "most confident mistakes"]
    assert reader.Images("confusion matrix")[0].encoded_image_string.startswith(b"\x89PNG")
    assert b"blue" in reader.Tensors("classes/text_summary")[0].tensor_proto.string_val[0]
    assert {"_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info"} <= {
        tag for tag, _ in tensorboard_counts(run)
    }
    records = wandb_records(run)
    config = next(record["run"]["config"]["update"] for record in records if record["type"] == "run")
    assert config["batch_size"] == 8 and config["classes"] == ["blue", "green", "red"]
    pictures = [
        path for folder in (run / "wandb").glob("offline-run-*/files/media/images") for path in folder.iterdir()
    ]
    assert len(pictures) == 2
    assert (run / "wandb" / "id").read_text() in str(pictures[0])


@pytest.mark.parametrize("hook", ["interrupt_before_logging", "interrupt_after_logging"])
def test_a_killed_run_resumes_in_tensorboard_with_every_epoch_once(
    hook: str, warm: Warm, images: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = finetune_arguments(images, run, "--log", "tensorboard")
    assert warm.run(arguments, hook=hook, epoch=2)[0] == -signal.SIGKILL
    assert warm.run(["resume", run], hook=hook, epoch=4)[0] == -signal.SIGKILL
    assert warm.run(["resume", run])[0] == 0
    assert_whole_in_tensorboard(run)
    before = sorted((run / "tensorboard").iterdir())
    assert warm.run(["resume", run])[0] == 0
    assert sorted((run / "tensorboard").iterdir()) == before, "a finished run is not logged again"
    assert warm.run(["resume", run, "--epochs", "8"])[0] == 0
    assert_whole_in_tensorboard(run)


def test_epochs_logged_before_their_checkpoint_was_lost_are_not_logged_twice(
    warm: Warm, images: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = finetune_arguments(images, run, "--log", "tensorboard")
    assert warm.run(arguments, hook="commit_and_go_back", times=4)[0] == -signal.SIGKILL
    assert max(step for step, _ in tensorboard_series(run)["val/loss"]) == 4
    for file in ((run / "checkpoints").glob("epoch_0004*"), (run / "checkpoints").glob("last.pt")):
        next(file).write_bytes(b"damaged")
    assert warm.run(["resume", run])[0] == 0
    counts = tensorboard_counts(run)
    assert [counts[("val/loss", epoch)] for epoch in range(1, 7)] == [1] * 6


def test_a_killed_run_resumes_as_the_same_wandb_run(warm: Warm, images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = finetune_arguments(images, run, "--log", "wandb")
    killed = warm.run(arguments, environment=OFFLINE, hook="interrupt_before_logging", epoch=3)
    assert killed[0] == -signal.SIGKILL
    number = (run / "wandb" / "id").read_text()
    without_network = {"WANDB_BASE_URL": "http://nowhere.invalid", "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}
    status, out, err = warm.run(["resume", run], environment=without_network)
    assert (status, out) == (0, f"{run}/model.pt\n")
    assert "offline (no connection); upload it with: wandb sync" in err
    assert (run / "wandb" / "id").read_text() == number
    assert_whole_in_wandb(run)


def stored_steps(run: StoredRun) -> list[tuple[int, bool]]:
    """The steps on the server, and whether each has the figures of an epoch."""
    return [(row["_step"], "val/loss" in row) for row in run.rows()]


def test_with_an_account_a_killed_run_resumes_at_the_last_epoch_of_the_server(
    warm: Warm, mislabelled: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = finetune_arguments(mislabelled, run, "--log", "wandb")
    with wandb_server() as server:
        killed = warm.run(arguments, environment=server.environment, hook="interrupt_before_logging", epoch=3)
        assert killed[0] == -signal.SIGKILL
        status, out, err = warm.run(["resume", run], environment=server.environment)
        assert (status, out) == (0, f"{run}/model.pt\n")
        assert f"wandb     {server.url}/somebody/tlkit/runs/" in err and "warning" not in err
        assert warm.run(["resume", run, "--epochs", 8], environment=server.environment)[0] == 0
        (stored,) = server.runs.values()
    assert list(server.runs) == [(run / "wandb" / "id").read_text()]
    assert stored_steps(stored) == [(epoch, True) for epoch in range(1, 9)]
    assert sum("confusion matrix" in name for name in stored.uploads) == 2


def test_the_printed_command_uploads_an_offline_run(warm: Warm, images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = finetune_arguments(images, run, "--log", "wandb")
    _, _, first = warm.run(arguments, environment=OFFLINE, hook="interrupt_at_step", step=7, number=15)
    assert "uploaded" not in first
    _, _, err = warm.run(["resume", run], environment=OFFLINE)
    (command,) = (line.partition("upload it with: ")[2] for line in err.splitlines() if line.startswith("wandb"))
    with wandb_server() as server:
        environment = {**os.environ, **server.environment, "HOME": str(tmp_path)}
        arguments = [os.path.join(os.path.dirname(sys.executable), "wandb"), *command.split()[1:]]
        synced = subprocess.run(arguments, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert synced.returncode == 0, synced.stderr
        (stored,) = server.runs.values()
    assert stored_steps(stored) == [(epoch, True) for epoch in range(1, 7)]


def processes_with(setting: str) -> list[str]:
    """Command lines of the processes that have this text in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if setting.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def test_a_hanging_service_delays_a_run_no_longer_than_the_timeout(warm: Warm, images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = finetune_arguments(images, run, "--log", "wandb")
    with wandb_server() as server:
        server.hanging.set()
        status, out, err = warm.run(arguments, environment=server.environment, hook="wait_little_for_tools", seconds=1)
        assert (status, out) == (0, f"{run}/model.pt\n")
        assert err.count("warning") == 1 and "wandb takes too long and was abandoned" in err
        deadline = time.monotonic() + 20
        while processes_with(server.url) and time.monotonic() < deadline:
            time.sleep(0.1)  # wandb's own service polls for the end of its parent process
        assert processes_with(server.url) == []


def test_a_killed_run_leaves_no_process_of_wandb(warm: Warm, images: Path, tmp_path: Path) -> None:
    """Even if the server does not respond to the upload that would end the run."""
    arguments = finetune_arguments(images, tmp_path / "run", "--log", "wandb")
    with wandb_server() as server:
        process = warm.start(
            arguments, environment=server.environment, hook="interrupt_before_logging", epoch=3, number=signal.SIGSTOP
        )
        deadline = time.monotonic() + 60
        while not server.runs:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        server.hanging.set()
        process.send(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        deadline = time.monotonic() + 10
        while processes_with(server.url) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert processes_with(server.url) == []


def test_a_tool_that_fails_during_the_run_is_dropped_with_one_warning(warm: Warm, images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = finetune_arguments(images, run, "--log", "tensorboard")
    status, out, err = warm.run(arguments, hook="fail_to_log", epoch=3, error=errno.ENOSPC)
    assert (status, out) == (0, f"{run}/model.pt\n")
    assert err.count("warning") == 1
    assert "tensorboard failed ([Errno 28] No space left on device)" in err
    assert "Traceback" not in err
    assert [step for step, _ in tensorboard_series(run)["val/loss"]] == [1, 2]
    assert len(history(run)) == 6


def test_an_unwritable_folder_stops_only_its_tool(warm: Warm, images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert warm.run(finetune_arguments(images, run, "--epochs", 2))[0] == 0
    for name in ("tensorboard", "wandb"):
        (run / name).write_text("a file in its place")
    arguments = ["resume", run, "--epochs", 4, "--log", "tensorboard", "--log", "wandb"]
    status, _, err = warm.run(arguments, environment=OFFLINE)
    assert status == 0, err
    assert err.count("logs no more") == 2
    assert len(history(run)) == 4


def test_unknown_tools_and_missing_libraries_are_reported_first(
    tlkit: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in (
        finetune_arguments(images, tmp_path / "run", "--log", "mlflow"),
        ["resume", "x", "--log", "mlflow"],
    ):
        outcome = tlkit(*command)
        assert outcome.status == 2
        assert outcome.err.startswith(
            f"tlkit {command[0]}: --log: 'mlflow' is not a valid value; expected tensorboard, wandb, none\n"
        )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = tlkit(*finetune_arguments(images, tmp_path / "run", "--log", "wandb"))
    assert outcome.status == 69
    assert outcome.err == (
        "tlkit finetune: --log wandb: needs wandb, which is not installed\n"
        "Install it with: pip install 'tlkit[wandb]'\n"
    )
    assert not (tmp_path / "run").exists()
