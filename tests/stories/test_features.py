"""Every image passes the backbone once: counted over whole commands."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Run, finetune_arguments, write_image
from tlkit.files.artifact import read_artifact


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "own cache"))
    return tmp_path / "own cache"


@pytest.fixture
def data(images: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(images, tmp_path / "data"))


def counts(text: str) -> tuple[int, int]:
    """(computed, known) as a run says it."""
    found = re.search(r"features  ([\d,]+) computed, ([\d,]+) cached", text)
    assert found, text
    return int(found[1]), int(found[2])


def head(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = read_artifact(str(run / "checkpoints" / "last.pt"), "tlkit-checkpoint")[
        "model_state_dict"
    ]
    return state


def same_heads(first: Path, second: Path) -> bool:
    return all(torch.equal(tensor, head(second)[name]) for name, tensor in head(first).items())


def test_only_new_content_passes_the_backbone(data: Path, tmp_path: Path, own_cache: Path, tlkit: Run) -> None:
    def run(number: int, *more: object) -> tuple[int, int]:
        result = tlkit(*finetune_arguments(data, tmp_path / f"run{number}", *more))
        assert result.status == 0, result.err
        return counts(result.err)

    assert run(1) == (30, 0)
    assert run(2) == (0, 30)
    assert same_heads(tmp_path / "run1", tmp_path / "run2")
    assert run(3, "--val", 0.4, "--head", "mlp") == (0, 30)  # another split, another head
    for number in range(10):
        write_image(data / "red" / f"new{number}.png", (200, 60, 50), 500 + number)
    os.rename(data / "green" / "00.png", data / "green" / "renamed.png")
    assert run(4) == (10, 30)
    write_image(data / "blue" / "00.png", (10, 10, 200), 999)
    assert run(5) == (1, 39)
    assert run(6, "--image-size", 64) == (40, 0)
    assert run(7, "--precision", "bf16") == (40, 0)
    assert run(8, "--seed", 1) == (40, 0)  # --weights none: other random weights


def test_an_interrupted_extraction_keeps_what_it_has(
    data: Path, tmp_path: Path, own_cache: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tlkit.features import extract

    monkeypatch.setitem(extract.EXTRACTION_BATCH, "cpu", 4)
    whole = tmp_path / "whole"
    assert tlkit(*finetune_arguments(data, whole)).status == 0
    shutil.rmtree(own_cache)
    passes = iter(range(10**9))
    compute = extract.Extraction.extract_batch

    def stop_at_the_fourth(self: extract.Extraction, *arguments: object) -> None:
        if next(passes) == 3:
            raise MemoryError
        compute(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(extract.Extraction, "extract_batch", stop_at_the_fourth)
    assert tlkit(*finetune_arguments(data, tmp_path / "cut")).status == 71
    monkeypatch.setattr(extract.Extraction, "extract_batch", compute)
    resumed = tlkit("resume", tmp_path / "cut")
    assert counts(resumed.err) == (18, 12)
    assert same_heads(whole, tmp_path / "cut")


def test_a_damaged_store_changes_nothing(data: Path, tmp_path: Path, own_cache: Path, tlkit: Run) -> None:
    assert tlkit(*finetune_arguments(data, tmp_path / "run1")).status == 0
    for path in own_cache.rglob("*.segment"):
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)
    again = tlkit(*finetune_arguments(data, tmp_path / "run2"))
    assert again.status == 0 and again.err.count("is damaged;") == 1
    assert counts(again.err)[0] >= 1
    torch.testing.assert_close(head(tmp_path / "run1"), head(tmp_path / "run2"), rtol=1e-4, atol=1e-5)
    assert counts(tlkit(*finetune_arguments(data, tmp_path / "run3")).err) == (0, 30)


def test_a_cache_that_cannot_be_written_is_said_once(
    data: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "file"))
    result = tlkit(*finetune_arguments(data, tmp_path / "run"))
    assert result.status == 0 and result.err.count("not cached") == 1
    assert counts(result.err) == (30, 0)


def test_views_are_computed_once_and_as_many_as_epochs_equal_fresh_augmentation(
    data: Path, tmp_path: Path, own_cache: Path, tlkit: Run
) -> None:
    augmented = ["--folds", 1, "--augment", "strong", "--epochs", 3]
    views = tlkit(*finetune_arguments(data, tmp_path / "views", *augmented, "--views", 3))
    assert views.status == 0 and counts(views.err) == (30 + 3 * 24, 0)
    again = tlkit(*finetune_arguments(data, tmp_path / "again", *augmented, "--epochs", 9, "--views", 3))
    assert counts(again.err) == (0, 30 + 3 * 24)
    assert tlkit(*finetune_arguments(data, tmp_path / "fresh", *augmented, "--no-cache")).status == 0
    torch.testing.assert_close(head(tmp_path / "views"), head(tmp_path / "fresh"), rtol=1e-4, atol=1e-5)
    assert tlkit(*finetune_arguments(data, tmp_path / "plain", "--folds", 1, "--epochs", 3)).status == 0
    assert not same_heads(tmp_path / "views", tmp_path / "plain")


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["--views", "3"], "--views"),
        (["--views", "3", "--augment", "light", "--no-cache"], "--views"),
        (["--cache-limit", "many"], "--cache-limit"),
    ],
)
def test_combinations_that_make_no_sense(arguments: list[str], flag: str, images: Path, tlkit: Run) -> None:
    result = tlkit("finetune", images, *arguments)
    assert result.status == 2 and f"tlkit finetune: {flag}: " in result.err


def test_vectors_beyond_memory_lie_in_a_mapped_file(
    data: Path, tmp_path: Path, own_cache: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tlkit.features import extract

    assert tlkit(*finetune_arguments(data, tmp_path / "run1")).status == 0
    monkeypatch.setattr(extract, "IN_MEMORY_BYTES", 0)
    assert tlkit(*finetune_arguments(data, tmp_path / "run2")).status == 0
    assert same_heads(tmp_path / "run1", tmp_path / "run2")


def test_the_cache_command_lists_and_clears(data: Path, tmp_path: Path, own_cache: Path, tlkit: Run) -> None:
    assert tlkit("cache").out == ""
    assert tlkit(*finetune_arguments(data, tmp_path / "run")).status == 0
    (line,) = tlkit("cache").out.splitlines()
    backbone, weights, precision, engine, vectors, size, *_ = line.split("\t")
    assert (backbone, weights, precision, engine, vectors) == ("timm/test_resnet", "none", "fp32", "torch", "30")
    assert int(size) > 30 * 4
    doctor = tlkit("doctor")
    assert doctor.status == 0 and f"features\t{own_cache}, " in doctor.out
    assert tlkit("cache", "--clear").status == 0
    assert tlkit("cache").out == ""
    assert counts(tlkit(*finetune_arguments(data, tmp_path / "run2")).err) == (30, 0)


@pytest.mark.parametrize(("flags", "is_quick"), [([], True), (["--unfreeze", "layer4"], False)])
def test_what_is_frozen_is_quick_in_every_epoch(
    flags: list[str], is_quick: bool, data: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tlkit.runs import train
    from tlkit.runs.session import TrainingSession

    seen: list[torch.nn.Module] = []
    original = train.train_and_save

    def watched(session: TrainingSession, observer: Any) -> None:
        seen.append(session.batches.module)
        original(session, observer)

    monkeypatch.setattr(train, "train_and_save", watched)
    result = tlkit(*finetune_arguments(data, tmp_path / "run", "--no-cache", "--epochs", 1, *flags))
    assert result.status == 0, result.err
    norms = [module for module in seen[0].modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert (norms == []) == is_quick
    shipped = read_artifact(str(tmp_path / "run" / "model.pt"), "tlkit-model")["model_state_dict"]
    assert any("running_mean" in key for key in shipped), "what is shipped is the plain network"
