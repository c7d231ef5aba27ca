"""Runs that have less memory than they ask for, or devices than one: the result stays what was asked for."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Run, command, finetune_arguments
from tests.forked import Warm
from tests.kills import fingerprint, read_checkpoint

UNFROZEN = ("--unfreeze", "layer4", "--image-size", 64, "--epochs", 2)
WITHOUT_BATCHNORM = ("--backbone", "timm/test_convnext", "--unfreeze", "stages.3", "--image-size", 64, "--epochs", 2)
STEPS = 3
"""Of each epoch: 24 training images in batches of 8."""


def rows(run: Path) -> list[dict[str, Any]]:
    """What is recorded of each epoch, without the clock."""
    lines = (run / "history.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name not in ("seconds", "images_per_second")}
        for line in lines
    ]


def read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def test_without_memory_from_the_start_it_is_as_with_small_parts(warm: Warm, images: Path, tmp_path: Path) -> None:
    scarce, small, log = tmp_path / "scarce", tmp_path / "small", tmp_path / "log"
    arguments = finetune_arguments(images, scarce, *UNFROZEN)
    status, _, err = warm.run(arguments, hook="scarce_memory", most=2, log=str(log))
    assert status == 0, err
    assert warm.run(finetune_arguments(images, small, *UNFROZEN, "--accumulate", 4))[0] == 0
    assert rows(scarce) == rows(small)
    assert fingerprint(scarce) == fingerprint(small)
    assert err.count("out of memory at step") == 1
    assert "at step 1: from here on images pass 2 at a time; each step still uses all 8" in err
    assert read(scarce / "status.json")["micro_batch"] == 2
    assert [json.loads(line) for line in log.read_text().splitlines()][:4] == [[8], [4], [2, 2, 2, 2], [2, 2, 2, 2]]


def test_without_memory_in_the_middle_the_losses_stay(warm: Warm, images: Path, tmp_path: Path) -> None:
    runs = {name: tmp_path / name for name in ("scarce", "small", "whole")}
    more = {"small": ("--accumulate", 4)}
    for name, run in runs.items():
        hook = {"hook": "scarce_memory", "most": 2, "since": 4} if name == "scarce" else {}
        words = finetune_arguments(images, run, *WITHOUT_BATCHNORM, *more.get(name, ()))
        status, _, err = warm.run(words, **hook)
        assert status == 0, err
        assert ("out of memory at step 5" in err) == (name == "scarce")
    for one, *others in zip(*map(rows, runs.values()), strict=True):
        for other in others:
            assert one["train_loss"] == pytest.approx(other["train_loss"], abs=1e-5)
            assert one["val_loss"] == pytest.approx(other["val_loss"], abs=1e-5)


def test_a_resumed_run_knows_what_fits(warm: Warm, images: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    scarce = ["scarce_memory", {"most": 2, "since": 1}]
    assert warm.run(finetune_arguments(images, whole, *UNFROZEN), hook="chain", hooks=[scarce])[0] == 0
    stop = ["interrupt_at_step", {"step": STEPS + 1, "number": signal.SIGTERM}]
    assert (
        warm.run(finetune_arguments(images, cut, *UNFROZEN), hook="chain", hooks=[scarce, stop])[0] == -signal.SIGTERM
    )
    assert read_checkpoint(cut / "checkpoints" / "last.pt")["progress"]["micro_batch"] == 2
    status, _, err = warm.run(["resume", cut])
    assert status == 0 and "out of memory" not in err
    assert fingerprint(cut) == fingerprint(whole)


def test_the_pass_goes_on_with_fewer_images_at_a_time(warm: Warm, images: Path, tmp_path: Path) -> None:
    found = {}
    for name, passing in (("scarce", 3), ("whole", 99)):
        run, store = tmp_path / name, {"TLKIT_CACHE": str(tmp_path / f"cache-{name}")}
        how = {"hook": "scarce_memory", "most": 99, "passing": passing, "environment": store}
        status, _, err = warm.run(finetune_arguments(images, run), **how)
        assert status == 0, err
        assert err.count("out of memory: features are computed") == (name == "scarce")
        assert ("features are computed 2 images at a time and may differ" in err) == (name == "scarce")
        found[name] = [row["val_loss"] for row in rows(run)]
    assert found["scarce"] == pytest.approx(found["whole"], abs=1e-5)


def test_one_image_that_is_too_much_ends_the_run(warm: Warm, images: Path, tmp_path: Path) -> None:
    status, _, err = warm.run(finetune_arguments(images, tmp_path / "run", *UNFROZEN), hook="scarce_memory", most=0)
    assert status == 71
    assert "\ntlkit finetune: memory: out of memory (CUDA out of memory." in err
    assert "--gradient-checkpointing" in err
    assert read(tmp_path / "run" / "status.json")["exit_code"] == 71


def test_batch_size_auto_is_the_largest_that_trains(warm: Warm, images: Path, tmp_path: Path) -> None:
    found, given, log = tmp_path / "found", tmp_path / "given", tmp_path / "log"
    words = finetune_arguments(images, found, *UNFROZEN)
    words[words.index("--batch-size") + 1] = "auto"
    status, _, err = warm.run(words, hook="scarce_memory", most=6, log=str(log))
    assert status == 0 and "batch     4 images per step" in err, err
    assert [json.loads(line) for line in log.read_text().splitlines()][:4] == [[16], [8], [4], [4]]
    options = read(found / "options.json")
    assert (options["given"]["batch_size"], options["resolved"]["batch_size"]) == ("auto", 4)
    words = finetune_arguments(images, given, *UNFROZEN)
    words[words.index("--batch-size") + 1] = "4"
    assert warm.run(words)[0] == 0
    assert fingerprint(found) == fingerprint(given), "nothing is left of the attempts"
    assert read_checkpoint(found / "checkpoints" / "last.pt")["options"]["batch_size"] == 4
    assert warm.run(["resume", found, "--epochs", 3])[0] == 0
    assert read(found / "status.json")["step"] == 3 * 6


def test_batch_size_auto_on_vectors_is_the_default(images: Path, tmp_path: Path, tlkit: Run) -> None:
    words = finetune_arguments(images, tmp_path / "run")
    words[words.index("--batch-size") + 1] = "auto"
    assert tlkit(*words).status == 0
    assert read(tmp_path / "run" / "options.json")["resolved"]["batch_size"] == 16


def test_gradient_checkpointing_changes_no_bit(images: Path, tmp_path: Path, tlkit: Run) -> None:
    for name, more in (("plain", ()), ("again", ("--gradient-checkpointing",))):
        assert tlkit(*finetune_arguments(images, tmp_path / name, *UNFROZEN, *more)).status == 0
    assert fingerprint(tmp_path / "again") == fingerprint(tmp_path / "plain")


def test_gradient_checkpointing_is_refused_where_it_is_not_offered(images: Path, tmp_path: Path, tlkit: Run) -> None:
    words = finetune_arguments(images, tmp_path / "run", "--unfreeze", "layer4", "--gradient-checkpointing")
    words[words.index("--backbone") + 1] = "torchvision/resnet18"
    result = tlkit(*words)
    assert result.status == 2
    assert result.err.splitlines()[-2].startswith(
        "tlkit finetune: --gradient-checkpointing: torchvision/resnet18 does not"
    )


def test_two_stages_train_to_the_same_bits(images: Path, tmp_path: Path, tlkit: Run) -> None:
    runs = {"one": (), "two": ("--parallel", "model", "--device", "cpu,cpu")}
    for name, more in runs.items():
        result = tlkit(*finetune_arguments(images, tmp_path / name, *UNFROZEN, *more))
        assert result.status == 0
    assert "stage 1   cpu: " in result.err and "stage 2   cpu: from layer4 on, " in result.err
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")
    predicted = [
        tlkit("predict", tmp_path / "one", images / "red", *more).out
        for more in ((), runs["two"], ("--parallel", "model", "--device", "cpu,cpu", "--split-at", "layer3"))
    ]
    assert len(predicted[0].splitlines()) == 10 and predicted[0] == predicted[1] == predicted[2]
    evaluated = [tlkit("evaluate", tmp_path / "one", images, *more).out for more in ((), runs["two"])]
    assert evaluated[0] and evaluated[0] == evaluated[1]


def test_two_stages_give_the_same_vectors(
    images: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, more in (("one", ()), ("two", ("--parallel", "model", "--device", "cpu,cpu", "--stages", 2))):
        monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / f"cache-{name}"))
        result = tlkit(*finetune_arguments(images, tmp_path / name, *more))
        assert result.status == 0 and "30 computed, 0 cached" in result.err
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")


def test_a_run_goes_on_with_one_device_of_two(images: Path, tmp_path: Path, tlkit: Run) -> None:
    two = ("--parallel", "model", "--device", "cpu,cpu", "--stages", 2)
    assert tlkit(*finetune_arguments(images, tmp_path / "run", *UNFROZEN, *two)).status == 0
    refused = tlkit("resume", tmp_path / "run", "--epochs", 3, "--device", "cpu")
    assert refused.status == 2 and "--parallel model: needs at least two devices" in refused.err
    assert tlkit("resume", tmp_path / "run", "--epochs", 3, "--device", "cpu", "--parallel", "none").status == 0
    assert read(tmp_path / "run" / "options.json")["resolved"]["stages"] is None


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="has the devices")
@pytest.mark.parametrize(
    ("more", "status", "line"),
    [
        (["--parallel", "model"], 69, "--parallel model: needs 2 devices, but this machine has "),
        (["--parallel", "data"], 69, "--parallel data: needs 2 devices, but this machine has "),
        (["--parallel", "model", "--device", "cuda:7,cuda:8"], 69, "--device: cuda:7 is not available"),
        (
            ["--parallel", "model", "--device", "cpu,cpu", "--split-at", "layer9"],
            2,
            "--split-at: timm/test_resnet has no",
        ),
        (
            ["--parallel", "model", "--device", ",".join(["cpu"] * 40)],
            2,
            "--parallel model: timm/test_resnet cannot be",
        ),
    ],
)
def test_devices_that_cannot_be_are_refused(
    more: list[str], status: int, line: str, images: Path, tmp_path: Path, tlkit: Run
) -> None:
    result = tlkit(*finetune_arguments(images, tmp_path / "run", *more))
    assert result.status == status and f"tlkit finetune: {line}" in result.err, result.err
    assert result.out == "" and not (tmp_path / "run").exists()


@pytest.mark.parametrize("kilobytes", [120_000, 600_000, 2_000_000])
def test_a_limit_of_memory_is_no_bug(kilobytes: int, finished_run: Path, images: Path, tmp_path: Path) -> None:
    """Libraries do not load, get no threads, or end the process."""
    for words in (["predict", finished_run, images], ["evaluate", finished_run, images]):
        limited = f"ulimit -v {kilobytes}; exec {shlex.join(command(*words))}"
        found = subprocess.run(["sh", "-c", limited], capture_output=True, text=True)
        assert (found.returncode, found.stdout) == (71, ""), found.stderr
        assert f"tlkit {words[0]}: memory: out of memory" in found.stderr
        assert f"`ulimit -v` limits memory to {kilobytes} KB here" in found.stderr


def test_the_status_of_a_library_that_ends_the_process() -> None:
    program = "import ctypes; from tlkit.memory_limit import report_exit_of_libraries as f; f('tlkit', 71); {}"
    for last, status in (
        ("ctypes.CDLL(None).exit(1)", 71),
        ("ctypes.CDLL(None).exit(5)", 5),
        ("raise SystemExit(1)", 1),
    ):
        limited = f"ulimit -v 4000000; exec {shlex.join([sys.executable, '-c', program.format(last)])}"
        assert subprocess.run(["sh", "-c", limited], capture_output=True).returncode == status, last
