"""Random views: functions of seed, epoch and content, of the right size, and not too far from the picture."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.odd_images import pixels
from tlkit.data.decoders import Pixels, ThisProcess
from tlkit.data.header import Accepted
from tlkit.data.preprocessing import Preprocessing
from tlkit.data.view import AUGMENTATIONS, View, flip, random_resized_crop

PREPROCESSING = Preprocessing((96, 128), (96, 128), "center", "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def augmented(name: str, seed: int, epoch: int, path: str) -> Pixels:
    return ThisProcess().load(path, View(PREPROCESSING, augment=name, seed=seed, epoch=epoch)).pixels


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    Image.fromarray(pixels(200, 160)).save(path)
    return str(path)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_view_depends_on_seed_epoch_and_content_alone(name: str, photo: str, tmp_path: Path) -> None:
    def view(seed: int, epoch: int, path: str = photo) -> np.ndarray:
        return augmented(name, seed, epoch, path)

    moved, changed = str(tmp_path / "moved.png"), str(tmp_path / "changed.png")
    shutil.copy(photo, moved)
    Path(changed).write_bytes(Path(photo).read_bytes() + b"\0")
    random.seed(1)
    first = view(1, 2)
    random.seed(2)
    np.testing.assert_array_equal(first, view(1, 2, moved))
    for other in [view(0, 2), view(1, 0), view(2, 1), view(1, 2, changed)]:
        assert (other != first).any()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_drawing_a_view_leaves_the_global_generators_alone(name: str, photo: str) -> None:
    before = random.getstate()
    augmented(name, 1, 2, photo)
    assert random.getstate() == before


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (50, 40), (400, 300)])
def test_a_view_has_the_size_of_the_input(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", size, (9, 90, 200)).save(tmp_path / "image.png")
    for epoch in range(5):
        view = augmented(name, 0, epoch, str(tmp_path / "image.png"))
        assert (view.shape, view.dtype) == ((96, 128, 3), np.uint8)


def test_crops_keep_at_least_a_third_of_the_picture() -> None:
    image = Image.fromarray(pixels(200, 160))  # red grows from left to right, green from top to bottom
    for seed in range(200):
        view = np.asarray(random_resized_crop(image, PREPROCESSING, random.Random(seed)), dtype=float)
        across, down = np.ptp(view[..., 0]) / 255, np.ptp(view[..., 1]) / 255
        assert across * down > 0.3
        assert across > 0.4 and down > 0.4


def test_every_other_view_is_mirrored() -> None:
    image = Image.fromarray(pixels())
    mirrored = sum(flip(image, random.Random(seed)) is not image for seed in range(1000))
    assert 440 < mirrored < 560


def test_a_strong_view_changes_colours_and_a_light_one_does_not() -> None:
    grey = Image.new("RGB", (200, 160), (120, 120, 120))
    light = np.asarray(AUGMENTATIONS["light"](grey, PREPROCESSING, random.Random(1)))
    assert (light == 120).all()
    means = [np.asarray(AUGMENTATIONS["strong"](grey, PREPROCESSING, random.Random(seed))).mean() for seed in range(30)]
    assert np.std(means) > 5


@pytest.mark.parametrize("name", ["none", *AUGMENTATIONS])
def test_a_view_comes_back_from_json(name: str) -> None:
    preprocessing = dataclasses.replace(PREPROCESSING, more_formats=("AVIF",), float_range=(0.0, 1.0))
    view = View(preprocessing, 1000, truncated=True, augment=name, seed=2**62, epoch=7)
    assert View.from_dict(json.loads(json.dumps(view.to_dict()))) == view
    assert view.accepted == Accepted(1000, ("AVIF",), (0.0, 1.0), True)


def test_views_are_told_apart_by_name() -> None:
    views = [View(PREPROCESSING, augment=a, seed=s, epoch=e) for a in AUGMENTATIONS for s in (0, 1) for e in (0, 1)]
    assert len({view.cache_id for view in views}) == 8
    assert View(PREPROCESSING, seed=1, epoch=1).cache_id == ""
