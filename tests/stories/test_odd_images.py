"""Every odd and every bad image through every command: named, left out or labelled, and never changed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Outcome, Run, command, finetune_arguments
from tests.data import faults
from tests.data.odd_images import BAD, READABLE, encoded
from tlkit.data import decoders
from tlkit.runs.batches import BatchBuilder

IN_A_FOLDER = {name for name in BAD if name != "folder.jpg"}
"""A folder is no bad image of a folder, whatever its name."""

FOUND_BY_DECODING = {"damaged_pixels.png"}
LINKED = {"link.jpg"}
"""Links to what has its own place are not found again."""

Snapshot = dict[str, tuple[str, int, int, str]]


def snapshot(root: Path) -> Snapshot:
    """Kind, mode, time of change and content of everything in a folder."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(status.st_mode) else ""
        found[str(path)] = (stat.filemode(status.st_mode), status.st_size, status.st_mtime_ns, content)
    return found


@pytest.fixture(scope="module")
def odd(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of ten good images, and in one of them every odd and every bad one."""
    root = tmp_path_factory.mktemp("odd") / "data"
    shutil.copytree(images, root)
    for name, write in READABLE.items():
        write(root / "red" / name)
    for name, (_, write) in BAD.items():
        write(root / "red" / name)
    return root


def codes(rows: list[dict[str, str]]) -> dict[str, str]:
    """File name -> code."""
    return {os.path.basename(row["path"]): row["code"] for row in rows}


def skipped(run: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (run / "skipped.jsonl").read_text().splitlines()]


EXPECTED = {name: BAD[name][0] for name in IN_A_FOLDER}


def test_finetune_names_all_bad_images_at_once_before_any_work(odd: Path, tmp_path: Path, tlkit: Run) -> None:
    before = snapshot(odd)
    result = tlkit(*finetune_arguments(odd, tmp_path / "run"))
    assert result.status == 65 and result.out == "" and "epoch" not in result.err
    named = IN_A_FOLDER - FOUND_BY_DECODING
    assert f"{odd}: {len(named)} images of {30 + len(READABLE) - len(LINKED) + len(IN_A_FOLDER)} cannot be read" in (
        result.err
    )
    listed = [line for line in result.err.splitlines() if line.startswith("  ")]
    assert {line.partition(": ")[0].rpartition("/")[2] for line in listed[:10]} < named
    assert listed[10:] == [f"  and {len(named) - 10} more"]
    assert not (tmp_path / "run").exists()
    assert snapshot(odd) == before


@pytest.mark.parametrize("options", [(), ("--no-cache",)], ids=["vectors", "images"])
def test_finetune_leaves_bad_images_out_the_same_way_on_every_resume(
    options: tuple[str, ...], odd: Path, tmp_path: Path, tlkit: Run
) -> None:
    before = snapshot(odd)
    run = tmp_path / "run"
    few = tlkit(*finetune_arguments(odd, run, "--skip-bad", *options))
    assert few.status == 65 and "--skip-bad ignores at most 10" in few.err and "--max-bad 0." in few.err
    result = tlkit(*finetune_arguments(odd, run, "--skip-bad", "--max-bad", 0.9, "--epochs", 2, *options))
    assert result.status == 3, result.err
    assert codes(skipped(run)) == EXPECTED
    assert "4 images with several frames or pages: only the first frame is used" in result.err
    trained_on = json.loads((run / "split.json").read_text())
    names = {os.path.basename(n) for part in ("train", "val") for n in trained_on[part]["red"]}
    assert names == {path.name for path in (odd / "red").glob("[0-9][0-9].png")} | READABLE.keys() - LINKED
    rows = skipped(run)
    again = tlkit("resume", run, "--epochs", 3)
    assert again.status == 3 and skipped(run) == rows
    assert json.loads((run / "split.json").read_text()) == trained_on
    assert snapshot(odd) == before


def test_check_tells_all_of_it_before_anyone_trains(odd: Path, tlkit: Run) -> None:
    before = snapshot(odd)
    result = tlkit("check", odd, "--format", "json")
    assert result.status == 65
    report = json.loads(result.out)
    assert codes(report["bad"]) == EXPECTED
    assert len(report["several_frames"]) == 4 and report["formats"]["GIF"] == 1
    assert report["stops"] and "cannot be read" in report["stops"][0]
    quick = json.loads(tlkit("check", odd, "--format", "json", "--quick").out)
    assert codes(quick["bad"]) == {name: EXPECTED[name] for name in IN_A_FOLDER - FOUND_BY_DECODING}
    lenient = tlkit("check", odd, "--skip-bad", "--max-bad", 0.9)
    assert lenient.status == 0 and "tlkit finetune would train on this folder" in lenient.out
    assert "\x1b" not in lenient.out
    assert snapshot(odd) == before


def test_evaluate_needs_leave_to_go_on_without_bad_images(finished_run: Path, odd: Path, tlkit: Run) -> None:
    before = snapshot(odd)
    strict = tlkit("evaluate", finished_run, odd, "--split", "all")
    assert strict.status == 65 and f"{len(IN_A_FOLDER)} images of" in strict.err and strict.out == ""
    result = tlkit("evaluate", finished_run, odd, "--split", "all", "--skip-bad", "--format", "json")
    assert result.status == 3
    report = json.loads(result.out)
    assert codes(report["skipped"]) == EXPECTED
    assert report["images"] == 30 + len(READABLE) - len(LINKED)
    assert snapshot(odd) == before


def records(result: Outcome) -> dict[bytes, dict[str, object]]:
    """File name -> record."""
    rows = [json.loads(line) for line in result.out.splitlines()]
    paths = [base64.b64decode(row["path_bytes"]) if "path_bytes" in row else row["path"].encode() for row in rows]
    return {os.path.basename(path): row for path, row in zip(paths, rows, strict=True)}


def predict_all(model: Path, folder: Path) -> Outcome:
    """All files of a folder by a list on standard input, as find -print0 gives it."""
    names = sorted(os.fsencode(path) for path in folder.iterdir())
    listing = b"".join(name + b"\0" for name in names)
    line = command("predict", model, "-0", "-", "--format", "jsonl")
    result = subprocess.run(line, input=listing, capture_output=True)
    assert len(result.stdout.splitlines()) == len(names)
    return Outcome(result.returncode, os.fsdecode(result.stdout), os.fsdecode(result.stderr))


def test_predict_gives_each_a_record(finished_run: Path, odd: Path) -> None:
    before = snapshot(odd)
    result = predict_all(finished_run, odd / "red")
    assert result.status == 3
    assert result.err.startswith(f"tlkit predict: inputs: {len(BAD)} of ") and result.err.count("\n") == 1
    found = records(result)
    for name in READABLE:
        assert found[os.fsencode(name)]["status"] == "ok"
    for name, (code, _) in BAD.items():
        assert found[os.fsencode(name)]["error"]["code"] == code, name
    several = {name for name, record in found.items() if "frames" in record}
    assert several == {b"frames.gif", b"frames.png", b"frames.webp", b"pages.tif"}
    assert not any("degraded" in record for record in found.values())
    assert snapshot(odd) == before


@pytest.mark.parametrize("workers", [0, 1])
def test_predict_reads_what_is_cut_short_where_that_is_asked_for(
    workers: int, finished_run: Path, odd: Path, tlkit: Run
) -> None:
    cut = {name for name, (code, _) in BAD.items() if code == "image_truncated"} - {"half.webp"}
    files = [odd / "red" / name for name in (*cut, "half.webp", "frames.gif", "damaged_pixels.png")]
    options = ("--allow-truncated", "--workers", workers, "--format", "jsonl")
    found = records(tlkit("predict", finished_run, *files, *options))
    assert {os.fsdecode(name) for name, record in found.items() if record.get("degraded")} == cut
    assert found[b"half.webp"]["error"]["code"] == "image_truncated"
    assert found[b"damaged_pixels.png"]["error"]["code"] == "image_corrupt"
    assert all(found[os.fsencode(name)]["status"] == "ok" for name in cut)


REFUSED_BY_THE_KERNEL = "/sys/class/net/lo/speed"
"""A regular file of 4 KiB that can be opened, and not read."""


@pytest.mark.skipif(not os.path.exists(REFUSED_BY_THE_KERNEL), reason="no such file here")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_the_kernel_does_not_read_is_a_bad_image(
    workers: int, finished_run: Path, images: Path, tlkit: Run
) -> None:
    picture = images / "red" / "00.png"
    options = ("--workers", workers, "--format", "jsonl")
    found = tlkit("predict", finished_run, REFUSED_BY_THE_KERNEL, picture, *options)
    assert found.status == 3
    bad, good = map(json.loads, found.out.splitlines())
    assert bad["error"] == {"code": "image_corrupt", "message": "cannot be read (Invalid argument)"}
    assert good["status"] == "ok"


def test_the_largest_image_may_be_chosen(finished_run: Path, images: Path, tmp_path: Path, tlkit: Run) -> None:
    few = tlkit("predict", finished_run, images / "red" / "00.png", "--max-pixels", 100, "--format", "jsonl")
    assert few.status == 4 and json.loads(few.out)["error"]["code"] == "image_too_large"
    assert tlkit("evaluate", finished_run, images, "--split", "all", "--max-pixels", 100).status == 65
    assert tlkit("check", images, "--max-pixels", 100).status == 65
    strict = tlkit(*finetune_arguments(images, tmp_path / "run", "--max-pixels", 100))
    assert strict.status == 65 and "48 x 40 pixels; at most 100 are accepted (--max-pixels)" in strict.err


def test_a_model_remembers_which_formats_and_which_range_it_was_trained_on(
    images: Path, tmp_path: Path, tlkit: Run
) -> None:
    shutil.copytree(images, tmp_path / "data")
    for number in range(3):
        BAD["photo.avif"][1](tmp_path / "data" / "red" / f"{number}.avif")
        (tmp_path / "data" / "blue" / f"{number}.tif").write_bytes(encoded("TIFF", Image.new("F", (40, 30), 0.2)))
    refused = tlkit(*finetune_arguments(tmp_path / "data", tmp_path / "run"))
    assert refused.status == 65 and "6 images of 36 cannot be read" in refused.err and "--float-range" in refused.err
    options = ("--formats", "avif", "--float-range", "0,1")
    assert tlkit("check", tmp_path / "data", *options).status == 0
    assert tlkit(*finetune_arguments(tmp_path / "data", tmp_path / "run", *options)).status == 0
    assert tlkit("predict", tmp_path / "run", tmp_path / "data").status == 0
    assert tlkit("evaluate", tmp_path / "run", tmp_path / "data", "--split", "all").status == 0


def test_12_bits_in_16_are_warned_of_and_their_range_is_remembered(tmp_path: Path, tlkit: Run) -> None:
    generator = np.random.default_rng(0)
    for name, highest in (("dark", 1500), ("light", 4095)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(10):
            values = generator.integers(0, highest + 1, (30, 40)).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / "data" / name / f"{number}.png")
    sixteen = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    Image.fromarray(sixteen).save(tmp_path / "data" / "dark" / "all of 16 bits.png")  # hides none of the others
    plain = tlkit(*finetune_arguments(tmp_path / "data", tmp_path / "plain"))
    assert "20 images of 16 bits" in plain.err
    assert plain.status == 0 and plain.err.count("--integer-range 0,4095") == 1
    assert "--integer-range 0,4095" in tlkit("check", tmp_path / "data").out
    run, options = tmp_path / "run", ("--integer-range", "0,4095")
    ranged = tlkit(*finetune_arguments(tmp_path / "data", run, *options))
    assert ranged.status == 0 and "--integer-range" not in ranged.err
    for number in range(10):  # the same pictures, with the bits that count in the front
        values = np.asarray(Image.open(tmp_path / "data" / "light" / f"{number}.png"))
        Image.fromarray((values / 4095 * 255).round().astype(np.uint8)).save(tmp_path / f"{number}.png")
        for model, alike in ((run, True), (tmp_path / "plain", False)):
            paths = tmp_path / "data" / "light" / f"{number}.png", tmp_path / f"{number}.png"
            found = tlkit("predict", model, *paths, "--format", "jsonl")
            deep, shallow = (json.loads(line)["probability"] for line in found.out.splitlines())
            assert (abs(deep - shallow) < 1e-3) == alike
            assert ("--integer-range 0,4095" in found.err) != alike
        break


def test_netpbm_and_heic_are_found_and_read(images: Path, tmp_path: Path, tlkit: Run) -> None:
    shutil.copytree(images, tmp_path / "data")
    for path in (tmp_path / "data" / "red").iterdir():
        with Image.open(path) as image:
            image.convert("RGB").save(path.with_suffix(".ppm"))
        path.unlink()
    assert tlkit(*finetune_arguments(tmp_path / "data", tmp_path / "run")).status == 0
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert sum(name.endswith(".ppm") for name in split["train"]["red"]) == 10
    BAD["burst.heic"][1](tmp_path / "data" / "red" / "IMG_0001")
    refused = tlkit(*finetune_arguments(tmp_path / "data", tmp_path / "again"))
    assert refused.status == 65 and "IMG_0001" in refused.err


def test_files_that_hang_or_crash_a_decoder_are_bad_like_others(
    images: Path, finished_run: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "PROGRAM", faults.PROGRAM)
    monkeypatch.setattr(decoders, "DECODE_SECONDS", 1)
    data = tmp_path / "data"
    shutil.copytree(images, data)
    expected = {}
    for number, name in ((1, "computes"), (3, "crashes"), (5, "eats")):
        (data / "red" / f"{name}.png").write_bytes(encoded("PNG", Image.new("RGB", (13, number))))
        expected[f"{name}.png"] = faults.CODES[13, number]
    strict = tlkit(*finetune_arguments(data, tmp_path / "strict"))
    assert strict.status == 65 and all(name in strict.err for name in expected)
    assert tlkit(*finetune_arguments(data, tmp_path / "run", "--skip-bad")).status == 3
    assert codes(skipped(tmp_path / "run")) == expected
    assert codes(json.loads(tlkit("check", data, "--format", "json").out)["bad"]) == expected
    rows = [json.loads(line) for line in tlkit("predict", finished_run, data, "--format", "jsonl").out.splitlines()]
    assert len(rows) == 33
    failed = [{"path": row["path"], **row["error"]} for row in rows if row["status"] == "error"]
    assert codes(failed) == expected


def test_a_decoder_killed_for_want_of_memory_ends_the_run_and_it_can_be_resumed(
    images: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(images, data)
    (data / "red" / "13.png").write_bytes(encoded("PNG", Image.new("RGB", (13, 6))))
    arguments = finetune_arguments(data, tmp_path / "run")
    load = BatchBuilder.batches

    with monkeypatch.context() as patch:

        def with_faults(preparation: BatchBuilder) -> object:
            patch.setattr(decoders, "PROGRAM", faults.PROGRAM)
            return load(preparation)

        patch.setattr(BatchBuilder, "batches", with_faults)
        killed = tlkit(*arguments)
    assert killed.status == 71
    assert "image decoder: the worker process was killed by SIGKILL while decoding" in killed.err
    assert json.loads((tmp_path / "run" / "status.json").read_text())["exit_code"] == 71
    assert tlkit("resume", tmp_path / "run").status == 0


@pytest.mark.parametrize("change", ["vanishes", "is damaged"])
def test_an_image_that_goes_bad_while_training_stops_the_run_by_name(
    change: str, images: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    shutil.copytree(images, data)
    victim = data / "red" / "03.png"
    load = BatchBuilder.load

    def load_and_change(preparation: BatchBuilder, sample: object, view: object) -> object:
        if view.epoch == 2:  # type: ignore[attr-defined]
            victim.unlink(missing_ok=True) if change == "vanishes" else victim.write_bytes(b"")
        return load(preparation, sample, view)  # type: ignore[arg-type]

    monkeypatch.setattr(BatchBuilder, "load", load_and_change)
    options = ("--no-cache", "--augment", "light", "--workers", 1, "--epochs", 4)
    result = tlkit(*finetune_arguments(data, tmp_path / "run", *options))
    assert result.status == 65
    assert f"tlkit finetune: {victim}: " in result.err and "It was readable when the run started." in result.err
    assert (tmp_path / "run" / "checkpoints" / "last.pt").exists()
    assert json.loads((tmp_path / "run" / "status.json").read_text())["epoch"] == 2


def test_a_full_shared_memory_does_not_matter(images: Path, tmp_path: Path) -> None:
    """Nothing of tlkit's own goes through /dev/shm."""
    script = 'mount -t tmpfs -o size=4k none /dev/shm && head -c 4096 /dev/zero > /dev/shm/full && exec "$@"'
    private = ["unshare", "--mount", "sh", "-c", script, "sh"]
    if subprocess.run([*private, "true"], capture_output=True).returncode:
        pytest.skip("no private mounts here")
    arguments = finetune_arguments(images, tmp_path / "run", "--workers", 2, "--no-cache", "--epochs", 1)
    result = subprocess.run([*private, *command(*arguments)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
