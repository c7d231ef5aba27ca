"""Run folders from somebody else: nothing outside of them is written, deleted or shown. See `make test-hostile`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests import hostile, writers
from tests.conftest import Run, finetune_arguments
from tests.forked import Warm
from tlkit.files.artifact import read_artifact, write_artifact


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


SAMPLE = [
    ("report.html", "link to a file", "report", 77),
    ("report.html", "link to nothing", "resume", 77),
    ("history.jsonl", "link to a file", "resume", 77),
    ("status.json", "hard link", "resume", 0),
    ("checkpoints", "link to a folder", "resume", 77),
    ("checkpoints/last.pt", "link to a file", "resume", 77),
    (".lock", "link to nothing", "resume", 77),
    (".lock", "FIFO", "resume", 65),
    ("tensorboard", "link to a folder", "resume", 77),
    ("model.pt", "1 GB of holes", "predict", 65),
    ("split.json", "1 GB of holes", "report", 65),
    ("split.json", "folder", "report", 65),
]


@pytest.mark.parametrize(("file", "kind", "command", "status"), SAMPLE)
def test_nothing_outside_of_a_run_folder_is_changed(
    file: str, kind: str, command: str, status: int, finished_run: Path, images: Path, tmp_path: Path, warm: Warm
) -> None:
    commands = {command: hostile.RUN_COMMANDS[command]}
    (result,) = hostile.attempts(warm, finished_run, images, tmp_path, commands, [file], [kind])
    assert result.problem == "" and result.status == status


def test_only_checkpoints_and_temporary_files_of_tlkit_are_deleted(run: Path, tlkit: Run) -> None:
    mine = ["epoch_0001_mine.pt", "epoch_0001_loss_0.5.pt", "foo.tlkit-tmp", ".foo.12.tlkit-tmp", "copy of last.pt"]
    for name in mine:
        (run / "checkpoints" / name).write_text("mine")
    (run / "notes.tlkit-tmp").write_text("mine")
    left = run / "checkpoints" / ".last.pt.00112233445566ff.tlkit-tmp"
    left.write_text("of a killed process")
    assert tlkit("resume", run, "--epochs", 12).status == 0
    assert all((run / "checkpoints" / name).read_text() == "mine" for name in mine)
    assert (run / "notes.tlkit-tmp").read_text() == "mine" and not left.exists()


def with_private_picture(run: Path, images: Path, name: str, outside: Path) -> None:
    """Let validation.jsonl show a picture from outside of the run's images as its worst mistake."""
    shutil.copy(images / "red" / "00.png", outside)
    rows = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    for row in rows:  # the only mistake
        row["predicted"] = row["label"]
    rows[0] |= {"path": name, "label": "red", "predicted": "blue", "probability": 0.999}
    (run / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("digests", [False, True])
@pytest.mark.parametrize("place", ["absolute", "above", "in the data folder"])
def test_a_report_shows_no_pictures_but_those_of_the_run(
    listed: bool, digests: bool, place: str, run: Path, images: Path, tmp_path: Path, tlkit: Run
) -> None:
    data, private = Path(shutil.copytree(images, tmp_path / "data")), tmp_path / "private.png"
    if place == "in the data folder":
        private = data / "private.png"
    name = {"absolute": str(private), "above": "../private.png", "in the data folder": "private.png"}[place]
    with_private_picture(run, images, name, private)
    options = json.loads((run / "options.json").read_text())
    options["resolved"]["data"] = str(data)
    (run / "options.json").write_text(json.dumps(options))
    split = json.loads((run / "split.json").read_text())
    if listed:  # in a folder of somebody else, every file may be changed
        split["val"]["red"].append(name)
    if not digests:
        del split["digests"]
    (run / "split.json").write_text(json.dumps(split))
    outcome = tlkit("report", run)
    assert outcome.status == 0, outcome.err
    page = (run / "report.html").read_text()
    assert name in page and count_pictures(page) == 0


def count_pictures(page: str) -> int:
    return page.count("data:image/jpeg;base64,")


def test_a_report_of_an_older_run_shows_the_pictures_of_a_folder_that_is_named(
    run: Path, images: Path, tlkit: Run
) -> None:
    rows = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    rows[0] |= {"predicted": "blue" if rows[0]["label"] != "blue" else "red", "probability": 0.999}
    (run / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert tlkit("report", run).status == 0
    shown = count_pictures((run / "report.html").read_text())
    split = json.loads((run / "split.json").read_text())
    del split["digests"]
    (run / "split.json").write_text(json.dumps(split))
    assert tlkit("report", run).status == 0
    assert count_pictures((run / "report.html").read_text()) == 0 < shown
    assert tlkit("report", run, "--data", images).status == 0
    assert count_pictures((run / "report.html").read_text()) == shown


def change_options(run: Path, **values: object) -> None:
    """Change options in options.json and in all checkpoints."""
    options = json.loads((run / "options.json").read_text())
    options["resolved"] |= values
    (run / "options.json").write_text(json.dumps(options))
    for file in (run / "checkpoints").glob("*.pt"):
        content = read_artifact(str(file), "tlkit-checkpoint")
        content["options"] |= values
        write_artifact(str(file), "tlkit-checkpoint", content)


def test_a_run_gets_no_more_processes_than_the_machine_has_cores(
    run: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[int] = []
    monkeypatch.setattr("tlkit.commands.resume.launch", lambda *words: launched.append(words[3]) or 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    change_options(run, processes=300, workers=5000)
    outcome = tlkit("resume", run, "--epochs", 7)
    assert launched == [3]
    assert "processes: the run asks for 300, but this machine has 3 CPU cores; using 3" in outcome.err
    outcome = tlkit("resume", run, "--epochs", 7, "--processes", 1)
    assert launched == [3] and outcome.status == 0
    assert "workers: the run asks for 5,000, but this machine has 3 CPU cores; using 3" in outcome.err
    assert "--workers 3" in outcome.err.partition("recorded")[2].splitlines()[0]


def test_a_search_connects_only_to_a_cluster_that_the_command_names(
    images: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlkit.tuning.start.require_feasible", lambda options: pytest.fail("it went on"))
    search = tmp_path / "search"
    search.mkdir()
    options = {"data": str(images), "ray_address": "203.0.113.5:6379"}
    (search / "search.json").write_text(json.dumps({"given": options, "resolved": options}))
    (search / "space.toml").write_text("learning_rate = { choice = [0.1, 0.2] }\n")
    for words in (["tune", "--resume", search], ["resume", search]):
        outcome = tlkit(*words)
        assert outcome.status == 77 and "names the Ray cluster 203.0.113.5:6379" in outcome.err
        assert f"tlkit tune --resume {search} --ray-address none" in outcome.err


@pytest.mark.parametrize("content", ["../../../outside/offline-run-1-x", "a" * 65, "", "x y"])
def test_the_id_of_a_run_at_wandb_is_no_path(content: str, tmp_path: Path) -> None:
    from tlkit.errors import DataError
    from tlkit.monitoring.wandb_sink import run_id

    (tmp_path / "id").write_text(content)
    with pytest.raises(DataError, match="is not the id of a W&B run"):
        run_id(str(tmp_path))


def test_a_new_run_refuses_a_linked_folder_of_checkpoints(images: Path, tmp_path: Path, tlkit: Run) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".last.pt.1.tlkit-tmp").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "mine")
    outcome = tlkit(*finetune_arguments(images, tmp_path / "run"))
    assert outcome.status == 77 and "run/checkpoints: is a symbolic link" in outcome.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [".last.pt.1.tlkit-tmp"]


@pytest.mark.skipif(not writers.can_isolate(), reason="process namespaces are not available to this user")
@pytest.mark.parametrize("kind", ["output", "file"])
def test_writers_with_one_process_id_do_not_share_a_temporary_file(kind: str, tmp_path: Path) -> None:
    import random

    assert writers.write_together(kind, tmp_path, random.Random(7)) == ""


def edit_json(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("status.json", {"state": [0] * 10}),
        ("history.jsonl", '"val_loss": 1e999, "x": '),
        ("about.json", {"environment": 7}),
        ("split.json", {"digests": [7]}),
    ],
)
def test_values_of_another_kind_are_refused_by_the_report(file: str, content: object, run: Path, tlkit: Run) -> None:
    path = run / file
    if isinstance(content, dict):
        edit_json(path, **content)
    else:
        path.write_text(path.read_text().replace('"val_loss": ', str(content)))
    outcome = tlkit("report", run)
    assert outcome.status == 65 and str(run) in outcome.err


@pytest.mark.parametrize(
    ("place", "value"),
    [("epoch", -5), ("step", -1), ("step_in_epoch", -3), ("micro_batch", 0), ("micro_batch", "a"), ("epoch", True)],
)
def test_counts_of_a_checkpoint_are_counts(place: str, value: object, run: Path, tlkit: Run) -> None:
    for file in (run / "checkpoints").glob("*.pt"):
        content = read_artifact(str(file), "tlkit-checkpoint")
        (content if place in ("epoch", "step") else content["progress"])[place] = value
        write_artifact(str(file), "tlkit-checkpoint", content)
    outcome = tlkit("resume", run, "--epochs", 7)
    assert outcome.status == 65 and f"is not a complete checkpoint: {place} is" in outcome.err


def test_a_stored_limit_of_the_cache_does_not_delete_features_of_other_runs(
    run: Path, images: Path, tmp_path: Path, cache: Path, tlkit: Run
) -> None:
    before = {path for path in cache.rglob("*") if path.is_file()}
    assert before
    change_options(run, cache_limit="0", learning_rate=0.02)
    options = json.loads((run / "options.json").read_text())
    assert options["resolved"]["cache_limit"] == "0"
    assert tlkit("resume", run, "--epochs", 7).status == 0
    assert before <= {path for path in cache.rglob("*") if path.is_file()}


def test_rows_of_a_search_are_trials(images: Path, tmp_path: Path, tlkit: Run) -> None:
    from tlkit.errors import DataError
    from tlkit.tuning.results import Table
    from tlkit.tuning.search_folder import SearchFolder

    search = SearchFolder(str(tmp_path))
    good: dict[str, object] = {"trial": 1, "options": {}, "state": "finished"}
    Path(search.results_lines).write_text(json.dumps(good) + "\n")
    assert list(Table.read(search, "accuracy").rows) == [1]
    for wrong in ({"trial": "../../x"}, {"trial": -1}, {"trial": 1.5}, {"options": []}, {"state": 7}):
        Path(search.results_lines).write_text(json.dumps(good | wrong) + "\n")
        with pytest.raises(DataError, match="line 1 is not a trial"):
            Table.read(search, "accuracy")


def test_a_large_image_of_holes_is_not_read_to_its_end(tmp_path: Path) -> None:
    from tlkit.data.digests import hex_digests
    from tlkit.data.folder import Sample

    with (tmp_path / "holes.jpg").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "small.jpg").write_bytes(b"abc")
    samples = [Sample(str(tmp_path / name), 0) for name in ("holes.jpg", "small.jpg")]
    assert hex_digests(samples, 2) == [None, "ba7816bf8f01cfea414140de5dae2223"]
