"""The sample data: small, whole, fairly parted, rebuilt by its scripts, and good enough to show transfer."""

from __future__ import annotations

import importlib
import json
from itertools import combinations
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

SAMPLE_DATA = Path(__file__).parent.parent / "sample_data"
BACKBONE = SAMPLE_DATA / "backbone.safetensors"
CLASSES = ["brick", "galaxies", "grass", "gravel", "retina"]

Box = tuple[int, int, int, int]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """Return a function that imports one of the sample data's scripts by name."""
    monkeypatch.syspath_prepend(str(SAMPLE_DATA))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def sample_images() -> list[Path]:
    return sorted(SAMPLE_DATA.rglob("*.jpg"))


def regions() -> dict[str, dict]:
    return json.loads((SAMPLE_DATA / "textures" / "regions.json").read_text(encoding="utf-8"))


def distance(one: Box, other: Box) -> int:
    """Pixels between two boxes along the axis on which they are further apart; negative if they overlap."""
    horizontal = max(one[0], other[0]) - min(one[2], other[2])
    vertical = max(one[1], other[1]) - min(one[3], other[3])
    return max(horizontal, vertical)


def is_inside(inner: Box, outer: Box) -> bool:
    return inner[0] >= outer[0] and inner[1] >= outer[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def test_sample_data_is_at_most_5_mb_and_the_backbone_2_mb() -> None:
    files = [path for path in SAMPLE_DATA.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    assert sum(path.stat().st_size for path in files) <= 5_000_000
    assert BACKBONE.stat().st_size <= 2_000_000


@pytest.mark.parametrize(("part", "count"), [("train", 40), ("val", 20)])
def test_each_class_has_its_images(part: str, count: int) -> None:
    folders = sorted((SAMPLE_DATA / "textures" / part).iterdir())
    assert [folder.name for folder in folders] == CLASSES
    assert [len(list(folder.glob("*.jpg"))) for folder in folders] == [count] * len(CLASSES)


def test_every_image_opens_and_is_of_one_size() -> None:
    for path in sample_images():
        with Image.open(path) as image:
            image.load()
            assert (image.format, image.size) == ("JPEG", (112, 112)), path


def test_names_of_unlabelled_images_do_not_give_the_class() -> None:
    names = [path.name for path in (SAMPLE_DATA / "unlabelled").iterdir()]
    assert sorted(names) == [f"image_{number}.jpg" for number in range(1, len(CLASSES) + 1)]


def test_regions_of_a_photograph_do_not_touch(script) -> None:
    gap = script("build_textures").GAP
    for name, photograph in regions().items():
        for one, other in combinations(photograph["regions"].values(), 2):
            assert distance(one, other) >= gap, name


def test_every_image_was_cut_inside_the_region_of_its_part() -> None:
    recorded = []
    for photograph in regions().values():
        for path, square in photograph["crops"].items():
            part = path.split("/")[1] if path.startswith("textures/") else "unlabelled"
            assert is_inside(square, photograph["regions"][part]), path
            recorded.append(SAMPLE_DATA / path)
    assert sorted(recorded) == sample_images()


def test_build_textures_gives_the_same_images_again(script, tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    script("build_textures").build(tmp_path)
    again = json.loads((tmp_path / "textures" / "regions.json").read_text(encoding="utf-8"))
    assert again == regions()
    for path in sample_images():
        with Image.open(path) as ours, Image.open(tmp_path / path.relative_to(SAMPLE_DATA)) as rebuilt:
            difference = np.asarray(ours, dtype=float) - np.asarray(rebuilt, dtype=float)
        assert np.abs(difference).mean() < 2, path  # another JPEG library may round differently


def test_formula_images_depend_on_the_seed_alone(script) -> None:
    formula_images = script("formula_images")
    counts = dict.fromkeys(formula_images.FAMILIES, 1)
    first, again, other = (formula_images.render_images(counts, 2, seed) for seed in (0, 0, 1))
    side = formula_images.SIDE
    assert (first.shape, first.dtype) == ((len(counts), 2, side, side), torch.uint8)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_backbone_holds_every_weight_of_its_architecture_but_the_head(script) -> None:
    network = timm.create_model(script("pretrain_backbone").ARCHITECTURE, num_classes=len(CLASSES))
    missing, unexpected = network.load_state_dict(load_file(BACKBONE), strict=False)
    head = network.pretrained_cfg["classifier"]
    assert sorted(missing) == [f"{head}.bias", f"{head}.weight"]
    assert unexpected == []


def test_linear_head_on_the_frozen_backbone_tells_textures_apart(script) -> None:
    pytest.importorskip("sklearn")
    measure = script("measure_backbone")
    network = measure.random_network(script("pretrain_backbone").ARCHITECTURE, seed=0)
    random_accuracy = measure.textures().accuracies(measure.frozen_features(network))[0]
    network.load_state_dict(load_file(BACKBONE))
    accuracy = measure.textures().accuracies(measure.frozen_features(network))[0]
    assert accuracy >= 0.95
    assert accuracy > random_accuracy + 0.05
