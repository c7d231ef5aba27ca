"""Run folders whose files are damaged, gone or changed: what resume makes of them, and that it never begins anew."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Run, finetune_arguments
from tests.forked import Warm
from tests.kills import fingerprint, read_checkpoint
from tlkit.errors import DataError
from tlkit.files.artifact import load_safely, write_artifact
from tlkit.files.run_folder import RunFolder

BEST_IS_THE_SECOND = ["--keep-checkpoints", 9, "--learning-rate", 0.1, "--schedule", "constant"]


@pytest.fixture(scope="module")
def stopped_run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six epochs as a kill after the fourth leaves it, the first three being kept. Not to be written to."""
    from tlkit.cli import run

    out = tmp_path_factory.mktemp("stopped") / "run"
    assert run([*finetune_arguments(images, out, *BEST_IS_THE_SECOND)]) == 0
    checkpoints = out / "checkpoints"
    for file in checkpoints.glob("epoch_*"):
        if read_checkpoint(file)["epoch"] > 4:
            file.unlink()
    (checkpoints / "last.pt").unlink()
    shutil.copy(file_of(out, 4), checkpoints / "last.pt")  # a copy, so that damage to one is none to the other
    (checkpoints / "best.pt").unlink()
    shutil.copy(file_of(out, 2), checkpoints / "best.pt")
    assert read_checkpoint(checkpoints / "last.pt")["progress"]["best"]["epoch"] == 2
    (out / "model.pt").unlink()
    return out


@pytest.fixture
def run(stopped_run: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(stopped_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def expected(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What it must end with."""
    from tlkit.cli import run

    out = tmp_path_factory.mktemp("expected") / "run"
    assert run([*finetune_arguments(images, out, *BEST_IS_THE_SECOND)]) == 0
    return fingerprint(out)


def file_of(run: Path, epoch: int) -> Path:
    return next((run / "checkpoints").glob(f"epoch_{epoch:04d}_*"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink, lambda file: file.write_bytes(b"")])
def test_the_newest_whole_checkpoint_takes_the_place_of_a_damaged_one(
    harm: Any, run: Path, expected: dict[str, str], tlkit: Run
) -> None:
    """Newest by its step, whatever the clock says."""
    harm(run / "checkpoints" / "last.pt")
    harm(file_of(run, 4))
    for epoch in (1, 2, 3):
        os.utime(file_of(run, epoch), (10**9 - epoch, 10**9 - epoch))
    result = tlkit("resume", run)
    assert (result.status, result.out) == (0, f"{run}/model.pt\n")
    warning = next(line for line in result.err.splitlines() if line.startswith("warning"))
    assert f"{run}/checkpoints/last.pt" in warning and file_of(run, 3).name in warning
    assert "epoch 3, step 12" in warning and "resume    from epoch 3, step 12" in result.err
    assert fingerprint(run) == expected


def test_cut_anywhere_a_checkpoint_is_stepped_over(run: Path) -> None:
    """At 64 places: never opened, and the one before it is found."""
    from tlkit.runs.checkpoints import newest_checkpoint
    from tlkit.runs.checkpoints import read_checkpoint as open_checkpoint

    last, folder = run / "checkpoints" / "last.pt", RunFolder(str(run))
    content = last.read_bytes()
    for place in range(64):
        last.write_bytes(content[: place * len(content) // 64])
        with pytest.raises(DataError):
            open_checkpoint(str(last))
        found = newest_checkpoint(folder)
        assert found is not None and found.path == str(file_of(run, 4))


def test_a_file_that_was_named_is_not_exchanged_for_another(run: Path, tlkit: Run) -> None:
    cut(run / "checkpoints" / "last.pt")
    result = tlkit("resume", run / "checkpoints" / "last.pt")
    assert result.status == 65 and f"tlkit resume: {run}/checkpoints/last.pt: " in result.err
    elsewhere = tlkit("resume", run / "checkpoints" / "last.pt", "--out", run.parent / "new")
    assert elsewhere.status == 65 and not (run.parent / "new").exists()
    newest = tlkit("resume", run, "--out", run.parent / "new")
    assert newest.status == 0 and "resuming from epoch_0004" in newest.err
    assert os.path.getsize(run / "checkpoints" / "last.pt") < os.path.getsize(file_of(run, 4)), "it was left as it is"


@pytest.mark.parametrize("harm", [cut, Path.unlink])
def test_a_run_never_begins_anew_in_silence(harm: Any, run: Path, tlkit: Run) -> None:
    before = (run / "history.jsonl").read_bytes()
    for file in (run / "checkpoints").glob("*.pt"):
        harm(file)
    result = tlkit("resume", run)
    assert (result.status, result.out) == (65, "")
    assert (
        re.search(f"tlkit resume: {run}: has .*no.* checkpoint", result.err)
        and f"tlkit finetune DATA --out {run}-2" in result.err
    )
    assert (run / "history.jsonl").read_bytes() == before


def test_a_run_that_was_stopped_before_its_first_checkpoint_says_that_it_begins_anew(
    run: Path, expected: dict[str, str], tlkit: Run
) -> None:
    shutil.rmtree(run / "checkpoints")
    os.mkdir(run / "checkpoints")
    os.unlink(run / "history.jsonl")
    result = tlkit("resume", run)
    assert result.status == 0 and "from the start" in result.err
    assert fingerprint(run) == expected


def test_a_damaged_best_is_found_again_or_said_to_be_lost(
    run: Path, expected: dict[str, str], tmp_path: Path, tlkit: Run
) -> None:
    lost = Path(shutil.copytree(run, tmp_path / "lost"))
    cut(run / "checkpoints" / "best.pt")
    assert tlkit("resume", run).status == 0
    assert fingerprint(run) == expected
    assert read_checkpoint(run / "checkpoints" / "best.pt")["epoch"] == 2
    cut(lost / "checkpoints" / "best.pt")
    os.unlink(file_of(lost, 2))
    result = tlkit("resume", lost)
    assert result.status == 0
    assert (
        "the checkpoint of the best epoch, 2, is damaged or missing; the best epoch is chosen from later epochs"
        in result.err
    )
    assert json.loads((lost / "status.json").read_text())["best"]["epoch"] == 5


def test_a_best_that_is_lost_at_the_end_is_not_replaced_by_another(
    stopped_run: Path, tmp_path: Path, tlkit: Run
) -> None:
    run = Path(shutil.copytree(stopped_run, tmp_path / "run"))
    assert tlkit("resume", run).status == 0
    for file in (run / "checkpoints" / "best.pt", file_of(run, 2), run / "model.pt"):
        file.unlink()
    result = tlkit("resume", run)
    assert (result.status, result.out) == (65, "")
    assert "its best epoch is lost" in result.err and not (run / "model.pt").exists()
    assert tlkit("resume", run, "--epochs", 7).status == 0


def test_a_damaged_model_is_written_again(finished_run: Path, tmp_path: Path, tlkit: Run) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    cut(run / "model.pt")
    result = tlkit("resume", run)
    assert (result.status, result.out) == (0, f"{run}/model.pt\n") and "the model is written again" in result.err
    assert fingerprint(run) == fingerprint(finished_run)


ODD = {
    "empty": "",
    "cut": '{"given": {"da',
    "null": "null",
    "list": "[]",
    "number": "5",
    "nothing in it": "{}",
    "odd kinds": '{"given": 5, "resolved": [], "classes": "ab", "train": [], "val": {"a": "b"}, "state": {}}',
    "deep": "[" * 100_000,
    "no text": "\udcff\udc80",
    "not a number": '{"state": NaN',
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_files_beside_a_checkpoint_are_made_again(
    text: str, run: Path, expected: dict[str, str], tmp_path: Path, tlkit: Run
) -> None:
    for name in ("options.json", "split.json", "status.json", "history.jsonl"):
        (run / name).write_bytes(os.fsencode(text))
    result = tlkit("resume", run)
    assert (result.status, result.out) == (0, f"{run}/model.pt\n"), result.err
    assert "Traceback" not in result.err
    assert f"{run}/options.json" in result.err and f"{run}/split.json" in result.err
    assert fingerprint(run) == expected
    again = tlkit("resume", run)
    assert again.status == 0 and "is finished" in again.err and "warning" not in again.err


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_an_odd_list_of_skipped_images_stops_nothing(
    text: str, run: Path, expected: dict[str, str], tlkit: Run
) -> None:
    (run / "skipped.jsonl").write_bytes(os.fsencode(text))
    result = tlkit("resume", run)
    assert result.status == 3, result.err
    assert fingerprint(run) == expected


def test_odd_files_of_a_finished_run_are_made_again(finished_run: Path, tmp_path: Path, tlkit: Run) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    history = (run / "history.jsonl").read_bytes()
    cut(run / "history.jsonl")
    (run / "status.json").write_text("{")
    assert tlkit("resume", run).status == 0
    assert (run / "history.jsonl").read_bytes() == history
    assert json.loads((run / "status.json").read_text())["state"] == "finished"


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_options_without_a_checkpoint_are_an_error(text: str, run: Path, tlkit: Run) -> None:
    shutil.rmtree(run / "checkpoints")
    os.unlink(run / "history.jsonl")
    (run / "options.json").write_bytes(os.fsencode(text))
    result = tlkit("resume", run)
    assert result.status == 65 and result.err.startswith(f"tlkit resume: {run}/options.json: ")


def change(run: Path, **values: object) -> None:
    stored = json.loads((run / "options.json").read_text())
    stored["resolved"].update(values)
    (run / "options.json").write_text(json.dumps(stored))


def test_options_that_shape_training_must_be_those_of_the_checkpoint(run: Path, tlkit: Run) -> None:
    changes = {"batch_size": 4, "seed": 7, "backbone": "timm/test_vit", "augment": "light", "unfreeze": "layer4"}
    change(run, **changes)
    before = read_checkpoint(run / "checkpoints" / "last.pt")
    result = tlkit("resume", run)
    assert (result.status, result.out) == (78, "")
    for line in (
        "--batch-size: 8 in the checkpoint, 4 in the file",
        "--seed: 0 in the checkpoint, 7 in the file",
        "--backbone: timm/test_resnet in the checkpoint, timm/test_vit in the file",
        "--augment: none in the checkpoint, light in the file",
        "--unfreeze: not set in the checkpoint, layer4 in the file",
    ):
        assert line in result.err
    assert read_checkpoint(run / "checkpoints" / "last.pt")["step"] == before["step"]


def test_what_shapes_nothing_may_be_changed(run: Path, expected: dict[str, str], tlkit: Run) -> None:
    change(run, keep=1, save_every=0, workers=3, cache_limit="1GB")
    assert tlkit("resume", run, "--workers", 0).status == 0
    assert fingerprint(run) == expected


@pytest.mark.parametrize("value", ["many", True, [], {}, -1])
def test_values_that_an_option_cannot_have_are_named(value: object, run: Path, tlkit: Run) -> None:
    change(run, workers=value)
    result = tlkit("resume", run)
    assert result.status == 65 and f"{run}/options.json: " in result.err and "--workers" in result.err


def test_other_classes_are_refused(run: Path, tlkit: Run) -> None:
    split = json.loads((run / "split.json").read_text())
    split["classes"][0] = "azure"
    for part in ("train", "val", "folds"):
        split[part]["azure"] = split[part].pop("blue")
    (run / "split.json").write_text(json.dumps(split))
    assert tlkit("resume", run).status == 78


def test_more_epochs_are_another_schedule(run: Path, tlkit: Run) -> None:
    result = tlkit("resume", run, "--epochs", 7)
    assert result.status == 0
    assert "--epochs 7 instead of 6: the learning-rate schedule is recomputed" in result.err


def test_another_environment_is_said_and_costs_a_guarantee(run: Path, expected: dict[str, str], tlkit: Run) -> None:
    last = run / "checkpoints" / "last.pt"
    content = read_checkpoint(last)
    there = {"torch": "2.0.0", "timm": "0.9", "device": "cuda", "threads": 4096}
    content["environment"].update(there)
    write_artifact(str(last), "tlkit-checkpoint", content)
    result = tlkit("resume", run)
    assert result.status == 0
    warnings = [line for line in result.err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 4
    for name, value in there.items():
        assert any(f"{name}: " in line and f"{value} when the checkpoint was written" in line for line in warnings)
    assert fingerprint(run) == expected


def test_the_threads_a_run_began_with_are_used_again(run: Path, tlkit: Run) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    last, before = run / "checkpoints" / "last.pt", torch.get_num_threads()
    content = read_checkpoint(last)
    content["environment"]["threads"] = 2
    write_artifact(str(last), "tlkit-checkpoint", content)
    try:
        assert "threads:" not in tlkit("resume", run).err
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_state_that_does_not_fit_is_refused(run: Path, tlkit: Run) -> None:
    last = run / "checkpoints" / "last.pt"
    content = read_checkpoint(last)
    for name, spoilt in {
        "model_state_dict": {},
        "optimizer_state_dict": {},
    }.items():
        write_artifact(str(last), "tlkit-checkpoint", {**content, name: spoilt})
        result = tlkit("resume", run)
        assert result.status == 78 and "does not fit" in result.err
    write_artifact(str(last), "tlkit-checkpoint", {**content, "progress": {"step_in_epoch": "x"}})
    result = tlkit("resume", last)
    assert result.status == 65 and "is not a complete checkpoint: step_in_epoch" in result.err


def test_a_folder_that_lost_its_options_says_what_can_be_resumed(run: Path, tmp_path: Path, tlkit: Run) -> None:
    (run / "options.json").unlink()
    result = tlkit("resume", run)
    assert result.status == 65 and f"tlkit resume {run}/checkpoints/last.pt --out {run}-2" in result.err
    assert tlkit("resume", run / "checkpoints" / "last.pt", "--out", tmp_path / "new").status == 0
    data = read_checkpoint(run / "checkpoints" / "last.pt")["options"]["data"]
    refused = tlkit(*finetune_arguments(Path(data), run))
    assert refused.status == 73 and read_checkpoint(run / "checkpoints" / "last.pt")


ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate {} bytes."
)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError(ALLOCATOR.format(800)), OSError(12, "Cannot allocate memory")]
)
def test_memory_at_its_end_is_no_damage(
    error: Exception, run: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a good checkpoint would be passed over for an older one."""
    load, calls = torch.load, []

    def fail(*arguments: Any, **how: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise error
        return load(*arguments, **how)

    monkeypatch.setattr(torch, "load", fail)
    before = sorted(os.listdir(run / "checkpoints"))
    result = tlkit("resume", run)
    assert (result.status, result.out) == (71, ""), result.err
    assert len(calls) == 1 and sorted(os.listdir(run / "checkpoints")) == before


def test_a_file_that_asks_for_more_memory_than_it_has_bytes_is_damaged(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **how: object) -> None:
        raise RuntimeError(ALLOCATOR.format(10**15))

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(DataError):
        load_safely(str(run / "checkpoints" / "last.pt"))


@pytest.mark.parametrize(
    ("place", "why"), [("/proc/self/mem", "input/output error"), ("/nowhere/last.pt", "is missing")]
)
def test_a_checkpoint_that_cannot_be_read_is_stepped_over(
    place: str, why: str, run: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a disk fails: the first bytes of that file cannot be read by anybody. Resume refuses it as a link."""
    from tlkit.runs import checkpoints

    said: list[str] = []
    monkeypatch.setattr(checkpoints, "log_status", lambda _, text: said.append(text))
    last = run / "checkpoints" / "last.pt"
    last.unlink()
    last.symlink_to(place)
    newest = checkpoints.newest_checkpoint(RunFolder(str(run)))
    assert newest is not None and newest.path == str(file_of(run, 4))
    assert len(said) == 1 and why in said[0] and f"resuming from {file_of(run, 4).name}" in said[0]
    result = tlkit("resume", run)
    assert result.status == 77 and f"{last}: is a symbolic link" in result.err and last.is_symlink()


@pytest.mark.parametrize("resolved", [{}, {"data": 7}, {"data": "x", "workers": "many"}])
def test_evaluate_and_odd_options(
    resolved: object, finished_run: Path, images: Path, tmp_path: Path, tlkit: Run
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    (run / "options.json").write_text(json.dumps({"given": {}, "resolved": resolved}))
    result = tlkit("evaluate", run, images)
    assert result.status == 65 and f"{run}/options.json: " in result.err


ODD_OPTIONS: dict[str, tuple[dict[Any, Any], int]] = {
    "a key that is no text": ({7: 8}, 0),
    "text for a number": ({"workers": "many"}, 65),
    "a tensor": ({"workers": torch.ones(3)}, 65),
    "a size beyond all numbers": ({"cache_limit": "9" * 400}, 65),
    "a share that is none": ({"val": "7"}, 65),
    "what does not go together": ({"hidden": 8}, 65),
    "nothing": ({}, 65),
}


@pytest.mark.parametrize("odd", ODD_OPTIONS)
def test_odd_options_in_a_checkpoint(odd: str, run: Path, tmp_path: Path, tlkit: Run) -> None:
    values, expected = ODD_OPTIONS[odd]
    last = run / "checkpoints" / "last.pt"
    content = read_checkpoint(last)
    content["options"] = content["options"] | values if values else {"epochs": 6}
    for file in (run / "checkpoints").glob("*.pt"):
        file.unlink()
    write_artifact(str(last), "tlkit-checkpoint", content)
    for arguments in (["resume", run], ["resume", last, "--out", tmp_path / "new"]):
        result = tlkit(*arguments)
        assert result.status == expected, result.err
        assert expected == 0 or f"{last}: " in result.err


@pytest.mark.parametrize("name", ["options.json", "split.json", "history.jsonl", "skipped.jsonl", "status.json"])
def test_a_pipe_in_a_run_folder_keeps_nobody_waiting(name: str, run: Path, warm: Warm) -> None:
    """Nor is it read or replaced."""
    pipe = run.parent / "pipe"
    os.mkfifo(pipe)
    (run / name).unlink(missing_ok=True)
    os.link(pipe, run / name)
    status, out, err = warm.run(["resume", run])
    expected = "is not a run folder" if name == "options.json" else "is not a regular file"
    assert (status, out) == (65, "") and expected in err
    assert pipe.is_fifo() and (run / name).is_fifo()
