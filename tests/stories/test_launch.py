"""Ranks started for real: by tlkit itself, and by torchrun on two machines that share no file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import BACKBONE, command, run_process
from tests.forked import Warm
from tests.kills import fingerprint
from tests.nodes import can_make_nodes, two_nodes
from tests.ranked import descendants, is_there, ranks_of, run_ranks

LONGEST = 30
"""Seconds within which a job must be gone when one of its ranks is."""

SMALL = ["--backbone", BACKBONE, "--weights", "none", "--image-size", "64", "--batch-size", "8", "--workers", "1"]
UNFROZEN = [*SMALL, "--unfreeze", "layer4", "--epochs", "8", "--save-every", "0"]


def start(images: Path, run: Path, *more: str) -> subprocess.Popen[str]:
    """Start a run by two ranks."""
    words = command("finetune", images, "--out", run, *UNFROZEN, "--processes", 2, *more)
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_epoch(run: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a run has finished an epoch."""
    while not (run / "history.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_a_rank_is_killed_and_the_run_goes_on_to_the_same_bits(warm: Warm, images: Path, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert run_ranks(warm, 2, ["finetune", images, "--out", whole, *UNFROZEN])[0] == 0
    process = start(images, run)
    wait_for_epoch(run, process)
    ranks = ranks_of(process)
    everyone = [*ranks.values(), *descendants([*ranks.values()])]
    os.kill(ranks[1], signal.SIGKILL)
    out, err = process.communicate(timeout=LONGEST)
    assert (process.returncode, out) == (71, "")
    assert err.count("tlkit finetune: ") == 1 and "tlkit finetune: rank 1: was killed by SIGKILL\n" in err
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["rank"]) == ("failed", 71, 1)
    time.sleep(1)
    assert not any(map(is_there, everyone))
    outcome = run_process("resume", run)  # by two ranks, as before
    assert (outcome.status, outcome.out) == (0, f"{run}/model.pt\n")
    assert "2 processes" in outcome.err and "warning" not in outcome.err
    assert fingerprint(run) == fingerprint(whole)


def test_a_killed_launcher_leaves_no_rank(images: Path, tmp_path: Path) -> None:
    """At the instant at which both ranks exist; `make test-orphans` kills at random instants."""
    process = start(images, tmp_path / "run", "--epochs", "500")
    while len(ranks := ranks_of(process)) < 2:
        assert process.poll() is None, process.communicate()
    everyone = [*ranks.values(), *descendants([*ranks.values()])]
    process.kill()
    process.communicate()
    until = time.monotonic() + 10
    while any(map(is_there, everyone)) and time.monotonic() < until:
        time.sleep(0.05)
    left = [number for number in everyone if is_there(number)]
    for number in left:
        os.kill(number, signal.SIGKILL)
    assert not left


@pytest.mark.slow
def test_ranks_are_started_again_and_stopped_by_a_signal(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(images, run, "--max-restarts", "1", "--epochs", "500")
    wait_for_epoch(run, process)
    before = ranks_of(process)
    os.kill(before[0], signal.SIGKILL)
    while "running" not in (run / "status.json").read_text() or set(ranks_of(process).values()) & set(before.values()):
        time.sleep(0.05)
    epoch = json.loads((run / "status.json").read_text())["epoch"]
    while json.loads((run / "status.json").read_text())["epoch"] <= epoch:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=LONGEST)
    assert process.returncode == -signal.SIGTERM, err
    assert "resume    from epoch " in err and f"resume with: tlkit resume {run}" in err
    assert json.loads((run / "status.json").read_text())["exit_code"] == 143


@pytest.mark.slow
@pytest.mark.skipif(not can_make_nodes(), reason="network namespaces need rights that this user has not")
def test_two_nodes_by_torchrun_equal_one(warm: Warm, images: Path, tmp_path: Path) -> None:
    """Each has its own images and its own cache; only the first sees the run folder."""
    options = [*SMALL, "--epochs", "3"]
    elsewhere = shutil.copytree(images, tmp_path / "elsewhere")
    assert warm.run(["finetune", images, "--out", tmp_path / "whole", *options])[0] == 0
    with two_nodes() as (one, two):
        caches = [{"TLKIT_CACHE": str(tmp_path / f"cache{number}")} for number in range(2)]
        words = ["finetune", images, "--out", tmp_path / "run", *options]
        first = one.torchrun(one.address, words, caches[0])
        words = ["finetune", elsewhere, "--out", tmp_path / "nowhere", *options]
        second = two.torchrun(one.address, words, caches[1])
        out, err = first.communicate()
        other_out, other_err = second.communicate()
        assert (first.returncode, out) == (0, f"{tmp_path}/run/model.pt\n"), err
        assert (second.returncode, other_out) == (0, ""), other_err
        assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "whole")
        assert not (tmp_path / "nowhere").exists()
