"""Images that change between a stop and a resume: refused by name, or taken on purpose in a new run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import Run, finetune_arguments, write_image
from tlkit.files.artifact import read_artifact, write_artifact


@pytest.fixture
def data(images: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(images, tmp_path / "data"))


@pytest.fixture
def run(data: Path, tmp_path: Path, tlkit: Run) -> Path:
    assert tlkit(*finetune_arguments(data, tmp_path / "run")).status == 0
    return tmp_path / "run"


def overwrite(image: Path) -> None:
    """Another picture under the same name, with the same times."""
    before = image.stat()
    write_image(image, (10, 250, 250), 12345)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_images_that_were_overwritten_are_named(data: Path, run: Path, tlkit: Run) -> None:
    split = json.loads((run / "split.json").read_text())
    names = [split["train"]["red"][0], split["val"]["blue"][0]]
    for name in names:
        overwrite(data / name)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "status.json"}
    refused = tlkit("resume", run, "--epochs", 8)
    assert refused.status == 78 and refused.out == ""
    assert "2 images changed since the checkpoint was written" in refused.err
    assert all(f"\n  {name}\n" in refused.err for name in names)
    assert f"tlkit resume {run} --accept-changed-data" in refused.err
    assert {path: path.read_bytes() for path in before} == before


def test_changed_images_are_taken_in_a_new_run(
    data: Path, run: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overwrite(data / json.loads((run / "split.json").read_text())["train"]["red"][0])
    new = tlkit("resume", run, "--epochs", 8, "--accept-changed-data")
    assert new.status == 0, new.err
    assert new.out.startswith("runs/") and Path(new.out.strip()).exists()
    folder = Path(new.out.strip()).parent
    assert len((folder / "history.jsonl").read_text().splitlines()) == 8
    assert tlkit("resume", folder, "--epochs", 9).status == 0  # its own images are those of now


def test_of_many_changed_images_ten_are_named(data: Path, run: Path, tlkit: Run) -> None:
    for image in sorted(data.rglob("*.png"))[:12]:
        overwrite(image)
    refused = tlkit("resume", run, "--epochs", 8)
    assert refused.status == 78 and "12 images changed" in refused.err
    assert refused.err.count(".png\n") == 10 and "  and 2 more\n" in refused.err


def test_a_checkpoint_alone_notices_other_content(data: Path, run: Path, tmp_path: Path, tlkit: Run) -> None:
    shutil.copy(run / "checkpoints" / "last.pt", tmp_path / "alone.pt")
    shutil.rmtree(run)
    arguments = ["resume", tmp_path / "alone.pt", "--out", tmp_path / "new", "--epochs", 8]
    overwrite(next(data.rglob("*.png")))
    refused = tlkit(*arguments)
    assert refused.status == 78 and "images changed since the checkpoint was written" in refused.err
    assert not (tmp_path / "new").exists()
    assert tlkit(*arguments, "--accept-changed-data").status == 0


def test_runs_of_older_versions_resume_without_digests(data: Path, run: Path, tlkit: Run) -> None:
    split = json.loads((run / "split.json").read_text())
    del split["digests"]
    (run / "split.json").write_text(json.dumps(split))
    for file in (run / "checkpoints").glob("*.pt"):
        content = read_artifact(str(file), "tlkit-checkpoint")
        del content["data_sha256"]
        write_artifact(str(file), "tlkit-checkpoint", content)
    overwrite(next(data.rglob("*.png")))
    assert tlkit("resume", run, "--epochs", 8).status == 0
    assert json.loads((run / "split.json").read_text())["digests"]


def test_an_image_that_only_was_touched_is_the_same(data: Path, run: Path, tlkit: Run) -> None:
    for image in data.rglob("*.png"):
        image.write_bytes(image.read_bytes())
    assert tlkit("resume", run, "--epochs", 8).status == 0
