"""torch or onnxruntime for features: a fixed rule chooses, a run keeps its engine, every image is computed once."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import Run, finetune_arguments, write_image
from tests.stories.test_features import counts, head, same_heads
from tlkit.export import graphs as graphs_module
from tlkit.features import backend, extract
from tlkit.features.backend import FeatureJob, choose_backend
from tlkit.features.cache import LAYOUT, list_feature_sets
from tlkit.features.cache_files import GRAPH_FILE

EXPORTED: dict[str, bytes] = {}
"""What was exported in this test process, by what it says about itself: an export takes seconds."""


class Exports:
    """Stands in for as_onnx, and counts. fails: raises instead."""

    def __init__(self) -> None:
        self.count = 0
        self.fails = False
        self.changes = False

    def __call__(self, network: nn.Module, size: tuple[int, int], output: str, metadata: Mapping[str, str]) -> bytes:
        self.count += 1
        if self.fails:
            raise ValueError("no such operator")
        if self.changes:
            network = nn.Sequential(network, nn.Hardtanh(0, 1e-3))
        key = json.dumps([dict(metadata), self.changes])
        if key not in EXPORTED:
            EXPORTED[key] = graphs_module.as_onnx(network, size, output, metadata)
        return EXPORTED[key]


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> Exports:
    """Exports are counted, and onnxruntime is for runs of 30 images and more."""
    counted = Exports()
    monkeypatch.setattr(backend, "as_onnx", counted)
    monkeypatch.setattr(backend, "FEWEST_IMAGES", 30)
    return counted


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "own cache"))
    return tmp_path / "own cache"


@pytest.fixture
def data(images: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(images, tmp_path / "data"))


def engine(run: Path) -> str:
    """As options.json remembers it."""
    name: str = json.loads((run / "options.json").read_text())["resolved"]["engine"]
    return name


def graphs(cache: Path) -> list[Path]:
    return [path for space in list_feature_sets(str(cache / LAYOUT)) if (path := Path(space) / GRAPH_FILE).exists()]


def test_a_run_of_enough_images_takes_onnxruntime_and_keeps_its_graph(
    data: Path, tmp_path: Path, own_cache: Path, tlkit: Run, exports: Exports
) -> None:
    def run(name: str, *more: object) -> tuple[int, int]:
        result = tlkit(*finetune_arguments(data, tmp_path / name, *more))
        assert result.status == 0, result.err
        return counts(result.err)

    assert run("first") == (30, 0) and engine(tmp_path / "first") == "onnxruntime"
    assert run("second", "--val", 0.4) == (0, 30) and engine(tmp_path / "second") == "onnxruntime"
    for number in range(10):
        write_image(data / "red" / f"new{number}.png", (200, 60, 50), 500 + number)
    assert run("third") == (10, 30)
    assert exports.count == 1
    assert run("torch", "--engine", "torch") == (40, 0)  # its vectors are others
    assert run("torch again", "--engine", "torch") == (0, 40)
    torch.testing.assert_close(head(tmp_path / "third"), head(tmp_path / "torch"), rtol=1e-3, atol=1e-4)
    assert not same_heads(tmp_path / "third", tmp_path / "torch")


JOB = FeatureJob(images=500, device="cpu", precision="fp32", convolutional=True, weight_bytes=256 << 20)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "onnxruntime"),
        ({"images": 10**9, "weight_bytes": 1}, "onnxruntime"),
        ({"images": 499}, "torch"),
        ({"device": "cuda"}, "torch"),
        ({"device": "cpu+cuda"}, "torch"),
        ({"precision": "bf16"}, "torch"),
        ({"convolutional": False}, "torch"),
        ({"weight_bytes": (256 << 20) + 1}, "torch"),
        ({"backbone_runs_once": False}, "torch"),
        ({"processes": 2}, "torch"),
    ],
    ids=str,
)
def test_the_rule(change: dict[str, Any], expected: str) -> None:
    assert choose_backend(dataclasses.replace(JOB, **change)) == expected


def test_the_cache_does_not_change_the_choice(
    data: Path, tmp_path: Path, own_cache: Path, tlkit: Run, exports: Exports
) -> None:
    assert tlkit(*finetune_arguments(data, tmp_path / "first", "--engine", "torch")).status == 0
    again = tlkit(*finetune_arguments(data, tmp_path / "again"))
    assert counts(again.err) == (30, 0) and engine(tmp_path / "again") == "onnxruntime"
    (data / "red" / "00.png").unlink()
    fewer = tlkit(*finetune_arguments(data, tmp_path / "fewer"))
    assert counts(fewer.err) == (0, 29) and engine(tmp_path / "fewer") == "torch"


def test_views_count_as_images(
    data: Path, tmp_path: Path, own_cache: Path, tlkit: Run, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "FEWEST_IMAGES", 30 + 2 * 30)
    few = tlkit(*finetune_arguments(data, tmp_path / "few", "--augment", "light", "--views", 1))
    assert few.status == 0 and engine(tmp_path / "few") == "torch"
    many = tlkit(*finetune_arguments(data, tmp_path / "many", "--augment", "light", "--views", 2))
    assert counts(many.err) == (30 + 2 * 30, 0) and engine(tmp_path / "many") == "onnxruntime"


def test_a_run_keeps_to_its_engine(
    data: Path, tmp_path: Path, own_cache: Path, tlkit: Run, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    (graph,) = graphs(own_cache)
    graph.unlink()
    monkeypatch.setattr(backend, "FEWEST_IMAGES", 10**9)  # a new run would take torch
    resumed = tlkit("resume", tmp_path / "cut")
    assert counts(resumed.err) == (18, 12) and engine(tmp_path / "cut") == "onnxruntime"
    assert same_heads(whole, tmp_path / "cut")
    shutil.rmtree(own_cache)
    longer = tlkit("resume", tmp_path / "cut", "--epochs", 8)
    assert counts(longer.err) == (30, 0) and "warning" not in longer.err.replace("warning   --epochs", "")
    with_torch = tlkit("resume", tmp_path / "cut", "--epochs", 9, "--engine", "torch")
    assert with_torch.status == 0 and "onnxruntime: now None" in with_torch.err


@pytest.mark.parametrize("what", ["fails", "changes"])
def test_a_backbone_that_cannot_be_exported_stays_with_torch(
    what: str, data: Path, tmp_path: Path, own_cache: Path, tlkit: Run, exports: Exports
) -> None:
    setattr(exports, what, True)
    result = tlkit(*finetune_arguments(data, tmp_path / "run"))
    assert result.status == 0 and counts(result.err) == (30, 0)
    assert exports.count == 1 and engine(tmp_path / "run") == "torch"
    assert graphs(own_cache) == []
    asked = tlkit(*finetune_arguments(data, tmp_path / "asked", "--engine", "onnxruntime"))
    assert (asked.status, asked.out) == (2, "")
    assert asked.err.splitlines()[-2].startswith("tlkit finetune: --engine onnxruntime: ")


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (graphs_module, "installed_version", lambda package: None),
        (graphs_module, "installed_version", lambda package: "1.20.0" if package == "onnx" else "9"),
        (backend, "LARGEST_WEIGHTS", 1000),
        (backend, "is_convolutional", lambda network: False),
    ],
    ids=["nothing installed", "onnx unsafe", "large", "no convolutions"],
)
def test_where_it_cannot_or_should_not_be_nothing_changes(
    module: ModuleType, name: str, value: object, data: Path, tmp_path: Path, own_cache: Path, tlkit: Run,
    exports: Exports, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, name, value)
    assert tlkit(*finetune_arguments(data, tmp_path / "run")).status == 0
    assert engine(tmp_path / "run") == "torch" and exports.count == 0


def test_a_damaged_graph_is_exported_again(
    data: Path, tmp_path: Path, own_cache: Path, tlkit: Run, exports: Exports
) -> None:
    assert tlkit(*finetune_arguments(data, tmp_path / "first")).status == 0
    (graph,) = graphs(own_cache)
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    assert counts(tlkit(*finetune_arguments(data, tmp_path / "second")).err) == (0, 30)  # nothing had to pass
    write_image(data / "red" / "new.png", (200, 60, 50), 500)
    third = tlkit(*finetune_arguments(data, tmp_path / "third"))
    assert counts(third.err) == (1, 30) and exports.count == 2
    assert graphs(own_cache) == [graph] and graph.read_bytes() != content


def test_graphs_count_as_what_is_kept(
    data: Path, tmp_path: Path, own_cache: Path, tlkit: Run, exports: Exports
) -> None:
    small = tlkit(*finetune_arguments(data, tmp_path / "small", "--cache-limit", "1MB"))
    assert counts(small.err) == (30, 0) and engine(tmp_path / "small") == "onnxruntime"
    assert graphs(own_cache) == [], "the graph alone is larger"
    shutil.rmtree(own_cache)
    assert tlkit(*finetune_arguments(data, tmp_path / "large")).status == 0
    (graph,) = graphs(own_cache)
    (line,) = tlkit("cache").out.splitlines()
    assert int(line.split("\t")[5]) > graph.stat().st_size
    assert tlkit("cache", "--clear").status == 0
    assert not graph.exists()


@pytest.mark.parametrize(
    "flags",
    [["--no-cache"], ["--unfreeze", "all"], ["--precision", "bf16"], ["--device", "cuda"]],
)
def test_what_onnxruntime_is_not_for(flags: list[str], images: Path, tlkit: Run) -> None:
    result = tlkit("finetune", images, "--engine", "onnxruntime", *flags)
    assert result.status == 2 and result.err.startswith("tlkit finetune: --engine onnxruntime: ")
    assert flags[0] in result.err


def test_vectors_of_a_network_on_two_kinds_of_devices_are_of_both() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert backend.kinds_of_devices(network) == "cpu"
    network[1].to("meta")
    assert backend.kinds_of_devices(network) == "cpu+meta"
