"""Our pixels against those of timm's and torchvision's own evaluation transforms: not one may differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torchvision.models import get_model_weights, get_weight, list_models
from torchvision.transforms.functional import InterpolationMode

from tests.data.odd_images import encoded, noise, pixels
from tlkit.data.decoders import Pixels, ThisProcess
from tlkit.data.normalize import normalize
from tlkit.data.preprocessing import INTERPOLATIONS, Preprocessing, center_crop, limit_aspect_ratio
from tlkit.data.view import View

SIZES = [
    (500, 375),
    (375, 500),
    (224, 224),
    (256, 256),
    (640, 427),
    (301, 299),
    (97, 131),
    (33, 500),
    (600, 41),
    (1, 1),
]
"""(width, height) of images."""

PHOTOS = sorted((Path(__file__).parents[2] / "sample_data" / "textures" / "val").glob("*/*_00.jpg"))

BASE = {"input_size": (3, 224, 224), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CONFIGURATIONS = {
    f"{crop_mode}-{interpolation}-{height}x{width}-{crop_pct}": BASE
    | {
        "input_size": (3, height, width),
        "interpolation": interpolation,
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
    }
    for crop_mode in ("center", "squash", "border")
    for interpolation in ("bilinear", "bicubic")
    for (height, width), crop_pct in [((224, 224), 0.875), ((160, 160), 1.0), ((199, 199), 0.95), ((128, 192), 0.9)]
}


def ours(image: Image.Image, preprocessing: Preprocessing) -> torch.Tensor:
    """What a backbone is given: float32 [3, H, W]."""
    return normalize(torch.from_numpy(np.array(preprocessing(image)))[None], preprocessing)[0]


def loaded(path: Path, preprocessing: Preprocessing) -> Pixels:
    """A file as a backbone's input: uint8 [H, W, 3]."""
    return ThisProcess().load(str(path), View(preprocessing)).pixels.copy()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_equals_timm(name: str) -> None:
    config = CONFIGURATIONS[name]
    theirs = create_transform(**config, is_training=False)
    preprocessing = Preprocessing.from_timm_config(config)
    for width, height in SIZES:
        image = noise(width, height)
        assert torch.equal(ours(image, preprocessing), theirs(image)), (width, height)


@pytest.mark.parametrize(
    "name",
    ["resnet50.a1_in1k", "vit_small_patch14_dinov2.lvd142m", "vit_base_patch16_clip_224.openai", "test_byobnet",
     "convnext_tiny.fb_in22k", "inception_v3.tv_in1k", "xcit_nano_12_p8_384", "efficientnet_b0",
     "mobilenetv3_small_100", "beit_base_patch16_224", "naflexvit_base_patch16_gap.e300_s576_in1k"],
)  # fmt: skip
def test_equals_what_timm_resolves_for_its_models(name: str) -> None:
    with torch.device("meta"):
        config = resolve_model_data_config(timm.create_model(name))
    theirs = create_transform(**config, is_training=False)
    preprocessing = Preprocessing.from_timm_config(config)
    for path in PHOTOS:
        with Image.open(path) as photo:
            image = photo.convert("RGB")
        assert torch.equal(ours(image, preprocessing), theirs(image)), path


def test_equals_the_transforms_of_every_torchvision_weight() -> None:
    """Each different one once; torchvision's transforms take an image to a tensor and normalize it."""
    presets = {}
    for model in list_models(module=torchvision.models):
        for weights in get_model_weights(model):
            preset = weights.transforms()
            presets[str(preset)] = preset
    assert len(presets) > 10
    for preset in presets.values():
        preprocessing = Preprocessing.from_torchvision_transforms(preset)
        for size in SIZES[:6]:
            image = noise(*size)
            assert torch.equal(ours(image, preprocessing), preset(image)), (preset, size)


def test_a_file_gives_the_same_pixels_as_its_image() -> None:
    weights = get_weight("ResNet50_Weights.IMAGENET1K_V2")
    preprocessing = Preprocessing.from_torchvision_transforms(weights.transforms())
    for path in PHOTOS:
        with Image.open(path) as photo:
            expected = weights.transforms()(photo.convert("RGB"))
        found = normalize(torch.from_numpy(loaded(path, preprocessing))[None], preprocessing)[0]
        assert torch.equal(found, expected)


def test_a_large_jpeg_is_nearly_the_same(tmp_path: Path) -> None:
    """It is decoded at a reduced scale; a smooth picture moves by less than a grey level on the mean."""
    (tmp_path / "large.jpg").write_bytes(encoded("JPEG", Image.fromarray(pixels(2400, 1800)), quality=95))
    preprocessing = Preprocessing.from_timm_config(CONFIGURATIONS["center-bicubic-224x224-0.875"])
    with Image.open(tmp_path / "large.jpg") as image:
        expected = np.asarray(preprocessing(image.convert("RGB")), float)
    assert np.abs(loaded(tmp_path / "large.jpg", preprocessing).astype(float) - expected).mean() < 1


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (2, 2), (3, 900)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_extreme_shapes_give_an_input_of_the_right_size(size: tuple[int, int], crop_mode: str) -> None:
    preprocessing = Preprocessing.from_timm_config(CONFIGURATIONS[f"{crop_mode}-bicubic-224x224-0.875"])
    assert preprocessing(Image.new("RGB", size, (9, 9, 9))).size == (224, 224)


def test_long_images_lose_only_what_the_crop_would_remove() -> None:
    image = noise(30, 2000)
    preprocessing = Preprocessing.from_timm_config(CONFIGURATIONS["center-bilinear-224x224-0.875"])
    cut = limit_aspect_ratio(image)
    assert cut.size == (30, 480)
    whole = image.resize((256, int(256 * 2000 / 30)), Image.Resampling.BILINEAR)
    expected = np.asarray(center_crop(whole, (224, 224), (0, 0, 0)), float)
    assert np.abs(np.asarray(preprocessing(image), float) - expected).mean() < 4  # the two grids are a fraction apart


def test_another_image_size_keeps_the_share_that_is_cropped_away() -> None:
    preprocessing = Preprocessing.from_timm_config(CONFIGURATIONS["center-bicubic-224x224-0.875"])
    larger = preprocessing.with_image_size(448)
    assert (larger.image_size, larger.resize) == ((448, 448), (512, 512))
    assert larger.mean == preprocessing.mean
    image = noise(600, 500)
    theirs = create_transform(**CONFIGURATIONS["center-bicubic-224x224-0.875"] | {"input_size": (3, 448, 448)})
    assert torch.equal(ours(image, larger), theirs(image))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_comes_back_from_a_dict(name: str) -> None:
    preprocessing = Preprocessing.from_timm_config(CONFIGURATIONS[name])
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


def test_every_interpolation_of_the_libraries_is_known() -> None:
    assert {mode.value for mode in InterpolationMode} - {"nearest-exact"} == set(INTERPOLATIONS)
