"""Several ranks do what one process does: the same features, losses and figures, each image counted once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import BACKBONE, write_folder, write_image
from tests.forked import Warm
from tests.kills import fingerprint, read_checkpoint
from tests.ranked import reported_errors, run_ranks, start_ranks
from tlkit.distributed.env import LAUNCHER

SMALL = ["--backbone", BACKBONE, "--weights", "none", "--image-size", 64, "--workers", 0]


def history(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if name not in ("seconds", "images_per_second")} for row in rows
    ]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No vector is known that these tests have not computed."""
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("ranks", [2, 3])
def test_sharded_features_give_the_same_head(ranks: int, warm: Warm, images: Path, tmp_path: Path) -> None:
    """To the last bit, as batches hold the same images, and one thread computes them here as there."""
    runs = {size: tmp_path / f"run{size}" for size in (1, ranks)}
    for size, run in runs.items():
        command = ["finetune", images, "--out", run, "--epochs", 4, "--batch-size", 8, *SMALL]
        environment = {"TLKIT_CACHE": str(tmp_path / f"cache{size}")}
        started = start_ranks(warm, size, command, environment=environment)
        assert [rank.wait() for rank in started] == [0] * size, [rank.err.read_text() for rank in started]
        assert "30 computed, 0 cached" in started[0].err.read_text()
        assert all(rank.err.read_text() == rank.out.read_text() == "" for rank in started[1:])
    assert fingerprint(runs[1]) == fingerprint(runs[ranks])
    again = ["finetune", images, "--out", tmp_path / "again", "--epochs", 1, *SMALL]
    _, _, err = warm.run(again, environment={"TLKIT_CACHE": str(tmp_path / f"cache{ranks}")})
    assert "0 computed, 30 cached" in err, "what any rank computes is kept"


@pytest.mark.parametrize(
    ("way", "ranks"),
    [
        (["--no-cache", "--augment", "light"], 2),
        (["--unfreeze", "layer4", "--sync-batchnorm"], 2),
        (["--unfreeze", "layer4", "--sync-batchnorm", "--label-smoothing", 0.1, "--class-weights", "balanced"], 3),
    ],
    ids=str,
)
def test_losses_are_equal_at_every_step(way: list[object], ranks: int, warm: Warm, tmp_path: Path) -> None:
    """Also where the last batch is smaller than the ranks are many."""
    images = write_folder(tmp_path / "images", 7)  # 18 to train on: of batches of 8 the last has 2
    seen: dict[int, list[list[Any]]] = {}
    for size in (1, ranks):
        steps, run = tmp_path / f"steps{size}", tmp_path / f"run{size}"
        command = ["finetune", images, "--out", run, "--epochs", 3, "--batch-size", 8, "--learning-rate", 1e-4]
        hooks = {0: {"hook": "write_down_steps", "file": str(steps)}}
        started = start_ranks(warm, size, [*command, *SMALL, *way], hooks=hooks)
        assert [rank.wait() for rank in started] == [0] * size, [rank.err.read_text() for rank in started]
        seen[size] = [json.loads(line) for line in steps.read_text().splitlines()]
    assert len(seen[1]) == len(seen[ranks]) == 9
    for one, many in zip(seen[1], seen[ranks], strict=True):
        assert (one[0], one[1], one[3]) == (many[0], many[1], many[3]), "step, learning rate, samples"
        assert float.fromhex(many[2]) == pytest.approx(float.fromhex(one[2]), abs=1e-5)
    for one, many in zip(history(tmp_path / "run1"), history(tmp_path / f"run{ranks}"), strict=True):
        assert many == pytest.approx(one, abs=1e-5)
        assert many["train_accuracy"] == one["train_accuracy"] and many["val_macro_f1"] == one["val_macro_f1"]


@pytest.mark.parametrize("count", [1, 7, 64, 101])
def test_figures_are_exactly_equal(count: int, warm: Warm, finished_run: Path, tmp_path: Path) -> None:
    for number in range(count):
        write_image(tmp_path / "images" / ("red", "green", "blue")[number % 3] / f"{number}.png", (90, 90, 90), number)
    command = ["evaluate", finished_run, tmp_path / "images", "--format", "json", "--batch-size", 16, "--workers", 0]
    found = [run_ranks(warm, ranks, command) for ranks in (1, 2, 3)]
    assert [status for status, _, _ in found] == [0, 0, 0], found
    assert found[0][1] == found[1][1] == found[2][1]
    assert json.loads(found[0][1])["images"] == count


@pytest.mark.parametrize("way", [[], ["--unfreeze", "layer4"]], ids=["vectors", "unfrozen"])
def test_a_signal_to_one_rank_stops_all_and_they_go_on_to_the_same_bits(
    way: list[str], warm: Warm, images: Path, tmp_path: Path
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    command = ["--epochs", 4, "--batch-size", 8, *SMALL, *way]
    assert run_ranks(warm, 2, ["finetune", images, "--out", whole, *command])[0] == 0
    first = 1 if way else 0  # only the first rank trains on vectors
    hooks = {first: {"hook": "interrupt_at_step", "step": 5, "number": int(signal.SIGTERM)}}
    started = start_ranks(warm, 2, ["finetune", images, "--out", run, *command], hooks=hooks)
    assert started[0].wait() == -signal.SIGTERM, started[0].err.read_text()
    started[1].send(signal.SIGTERM)  # as a launcher does, where it has not ended yet
    assert started[1].wait() == -signal.SIGTERM
    assert json.loads((run / "status.json").read_text())["exit_code"] == 143
    assert 5 <= read_checkpoint(run / "checkpoints" / "last.pt")["step"] <= 6
    status, _, err = run_ranks(warm, 2, ["resume", run])
    assert status == 0 and "warning" not in err
    assert fingerprint(run) == fingerprint(whole)


def test_another_number_of_ranks_goes_on_and_says_what_is_lost(warm: Warm, images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["finetune", images, "--out", run, "--epochs", 2, *SMALL, "--unfreeze", "layer4"]
    assert run_ranks(warm, 2, command)[0] == 0
    status, _, err = run_ranks(warm, 3, ["resume", run, "--epochs", 3])
    assert status == 0
    assert "processes: now 3, but 2 when the checkpoint was written; the result will differ" in err
    assert read_checkpoint(run / "checkpoints" / "last.pt")["environment"]["ranks"] == 3
    status, _, err = warm.run(["resume", run, "--epochs", 4, "--processes", 1])
    assert status == 0 and "processes: now 1, but 3 when the checkpoint was written" in err
    status, out, err = run_ranks(warm, 2, ["resume", run])
    assert (status, out) == (0, f"{run}/model.pt\n") and "is finished; to train on: tlkit resume" in err


def failure_of(warm: Warm, command: list[object], **how: Any) -> tuple[int, str]:
    """How the first rank ends, and what it leaves for its launcher to tell. The others are ended by that."""
    started = start_ranks(warm, 2, command, **how)
    status = started[0].wait()
    started[1].send(signal.SIGTERM)
    started[1].wait()
    assert started[1].err.read_text() == ""
    return status, reported_errors(warm)[-1]


def test_ranks_with_other_options_are_refused(warm: Warm, images: Path, tmp_path: Path) -> None:
    command = ["finetune", images, "--out", tmp_path / "run", *SMALL]
    status, said = failure_of(warm, [*command, "--seed", 4], others=[*command, "--seed", 5])
    assert status == 78
    assert said.splitlines()[0] == "tlkit finetune: options: differ between processes"
    assert "--seed: 5 at rank 1, 4 at rank 0" in said
    assert not (tmp_path / "run").exists()


def test_ranks_with_other_weights_are_refused(warm: Warm, images: Path, tmp_path: Path) -> None:
    from tlkit.model.backbones import build_network, find_backbone

    weights = tmp_path / "weights.pt"
    torch.save(build_network(find_backbone(BACKBONE), 10).state_dict(), weights)
    command = ["finetune", images, "--out", tmp_path / "run", *SMALL]
    status, said = failure_of(warm, command, others=[*command, "--weights", weights])
    assert status == 78
    assert said.splitlines()[0] == "tlkit finetune: processes: use different devices, libraries or weights"
    assert said.splitlines()[1].startswith("  sha256 of the weights: ") and "--device" in said.splitlines()[2]


@pytest.mark.parametrize("other", ["batch size", "model"])
def test_ranks_that_measure_otherwise_are_refused(other: str, warm: Warm, finished_run: Path, images: Path) -> None:
    about = [images, "--split", "all", "--workers", 0, "--batch-size"]
    model = finished_run / "checkpoints" / "last.pt" if other == "model" else finished_run
    size = 15 if other == "batch size" else 4
    status, said = failure_of(warm, ["evaluate", finished_run, *about, 4], others=["evaluate", model, *about, size])
    assert status == 78
    assert ("--batch-size: 15 at rank 1, 4 at rank 0" in said) == (other == "batch size")
    assert ("sha256 of the model: " in said) == (other == "model")


def test_ranks_without_an_agent_all_end_well(warm: Warm, finished_run: Path, images: Path) -> None:
    """The first rank is then the one that keeps what the others look at once more before they go."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    places = [
        {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"} for rank in (0, 1)
    ]
    command = ["evaluate", finished_run, images, "--split", "all", "--workers", 0]
    ranks = [warm.start(command, environment={**place, **meeting}) for place in places]
    assert [rank.wait() for rank in ranks] == [0, 0], [rank.err.read_text() for rank in ranks]
    assert "images 30" in ranks[0].out.read_text()


def test_of_a_rank_that_is_killed_the_others_say_nothing(warm: Warm, images: Path, tmp_path: Path) -> None:
    """Its launcher knows better; for scripts it is in status.json."""
    command = ["finetune", images, "--out", tmp_path / "run", "--epochs", 2, *SMALL, "--unfreeze", "layer4"]
    hooks = {1: {"hook": "interrupt_at_step", "step": 1, "number": int(signal.SIGKILL)}}
    before = len(reported_errors(warm))
    ranks = start_ranks(warm, 2, command, hooks=hooks)
    assert [rank.wait() for rank in ranks] == [71, -9]
    assert "tlkit finetune: " not in ranks[0].err.read_text() and len(reported_errors(warm)) == before
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 71)
    assert status["error"].startswith("processes: another process died or does not respond (")


def test_machines_with_other_images_are_refused(warm: Warm, images: Path, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(images, tmp_path / "elsewhere")
    (elsewhere / "red" / "03.png").unlink()
    (elsewhere / "red" / "04.png").write_bytes((elsewhere / "red" / "05.png").read_bytes())
    two_machines = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    status, said = failure_of(
        warm,
        ["finetune", images, "--out", tmp_path / "run", *SMALL],
        others=["finetune", elsewhere, "--out", tmp_path / "run", *SMALL],
        environment=two_machines,
    )
    assert status == 78
    assert "has different images on another machine" in said
    assert (
        f"2 of 30 are missing or different at rank 1 on {socket.gethostname()}, such as {elsewhere}/red/03.png" in said
    )


def test_a_path_that_is_missing_on_a_machine_is_said_there(warm: Warm, images: Path, tmp_path: Path) -> None:
    here = ["finetune", images, "--out", tmp_path / "run", *SMALL]
    there = ["finetune", tmp_path / "nowhere", "--out", tmp_path / "run", *SMALL]
    ranks = start_ranks(warm, 2, here, others=there, environment={"GROUP_WORLD_SIZE": "2"})
    assert ranks[1].wait() == 66
    ranks[0].send(signal.SIGTERM)
    ranks[0].wait()
    problem = "cannot be read: No such file or directory"
    assert (
        reported_errors(warm)[-1] == f"tlkit finetune: {tmp_path}/nowhere: {problem} (rank 1 on {socket.gethostname()})"
    )


def test_what_a_restart_cannot_mend_is_not_tried_again(warm: Warm, images: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").touch()
    command, notes = ["finetune", images, "--out", tmp_path / "run", *SMALL], {LAUNCHER: str(tmp_path)}
    status, _ = failure_of(warm, command, environment=notes)
    assert status == 73
    (tmp_path / "run" / "precious").unlink()
    ranks = start_ranks(warm, 2, command, environment=notes)
    assert [rank.wait() for rank in ranks] == [73, 73]


@pytest.mark.usefixtures("own_cache")
def test_bad_images_are_told_once(warm: Warm, tmp_path: Path) -> None:
    images = write_folder(tmp_path / "images", 20)
    for name in ("red/03.png", "green/03.png", "green/04.png", "green/05.png"):  # in the shares of both
        whole = (images / name).read_bytes()
        (images / name).write_bytes(whole[:100] + bytes(300) + whole[400:])  # its header and its end are as they were
    elsewhere = shutil.copytree(images, tmp_path / "elsewhere")
    command = ["finetune", images, "--out", tmp_path / "run", "--epochs", 1, *SMALL]
    environment = {"TLKIT_CACHE": str(tmp_path / "cache")}
    status, said = failure_of(warm, command, environment=environment)
    assert status == 65 and said.count("red/03.png") == 1 and "4 images of 60 cannot be read" in said
    about = ["--out", tmp_path / "other", "--epochs", 1, "--skip-bad", "--no-cache", *SMALL]
    others = ["finetune", elsewhere, *about]
    started = start_ranks(warm, 2, ["finetune", images, *about], others=others, environment=environment)
    assert [rank.wait() for rank in started] == [3, 0], started[0].err.read_text()
    assert started[0].err.read_text().count("red/03.png") == 1 and started[1].err.read_text() == ""
    assert str(elsewhere) not in started[0].err.read_text()


def test_ranks_that_cannot_meet_say_so_in_time(warm: Warm, images: Path, tmp_path: Path) -> None:
    place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    command = ["finetune", images, "--out", tmp_path / "run", "--rendezvous-timeout", 1, *SMALL]
    status, out, err = warm.run(command, environment=place)
    assert (status, out) == (69, "")
    assert err.startswith("tlkit finetune: 127.0.0.1:1: rank 1 could not connect to the other ranks within 1 seconds\n")


def test_a_port_in_use_is_said(warm: Warm, images: Path, tmp_path: Path) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as taken:
        port = str(taken.getsockname()[1])
        place = {
            "RANK": "0",
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        status, _, err = warm.run(["finetune", images, "--out", tmp_path / "run", *SMALL], environment=place)
    assert status == 69
    assert err.startswith(f"tlkit finetune: 127.0.0.1:{port}: the port is in use, so rank 0 cannot wait there")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_more_ranks_than_gpus(warm: Warm, images: Path, tmp_path: Path) -> None:
    status, _, err = warm.run(["finetune", images, "--processes", 2, "--device", "cuda", "--out", tmp_path / "run"])
    assert status == 69
    assert "processes: 2 need a GPU each, but this machine has 0 GPUs" in err


def test_an_environment_that_is_not_whole_is_said(warm: Warm, images: Path) -> None:
    for place in ({"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "0", "WORLD_SIZE": "2"}):
        status, _, err = warm.run(["finetune", images], environment=place)
        assert status == 2 and "environment" in err, err
    assert os.environ.get("RANK") is None


@pytest.mark.parametrize("words", [["tune"], ["predict", "model.pt"]], ids=str)
def test_what_ranks_cannot_share_is_refused_to_them(words: list[str], warm: Warm, images: Path) -> None:
    status, out, err = warm.run([*words, images], environment={"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"})
    problem = f"{words[0]}: runs in one process, but the environment variable WORLD_SIZE is 2"
    assert (status, out) == (2, "") and err.startswith(f"tlkit {words[0]}: {problem}\n")
