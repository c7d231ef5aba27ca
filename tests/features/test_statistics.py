"""The statistics that standardize features."""

import math

import pytest
import torch

from tlkit.features.extractor import SHRINKAGE, feature_statistics


def test_mean_and_shrunk_deviation_by_the_formula() -> None:
    features = torch.randn(10, 6, dtype=torch.float64) * torch.tensor([1.0, 2, 3, 4, 5, 0])
    statistics = feature_statistics(torch.split(features, 3))
    assert statistics is not None
    mean, std = statistics
    variance, weight = features.var(0, unbiased=False), 10 / (10 + SHRINKAGE)
    torch.testing.assert_close(mean, features.mean(0))
    torch.testing.assert_close(std.square(), weight * variance + (1 - weight) * variance.mean())


def test_a_nearly_constant_feature_of_few_images_stays_small() -> None:
    features = torch.randn(10, 64, dtype=torch.float64)
    features[:, 0] *= 1e-4
    statistics = feature_statistics([features])
    assert statistics is not None
    mean, std = statistics
    assert ((features - mean) / std)[:, 0].abs().max() < 0.01


def test_of_many_images_the_deviation_is_the_plain_one() -> None:
    features = torch.randn(50_000, 4) * torch.tensor([0.5, 1, 2, 4])
    statistics = feature_statistics(torch.split(features, 4096))
    assert statistics is not None
    torch.testing.assert_close(statistics[1].float(), features.std(0), rtol=0.01, atol=0)


def test_positions_count_as_one_image() -> None:
    features = torch.randn(8, 1, 3).expand(8, 49, 3)
    with_positions, without = feature_statistics([features]), feature_statistics([features[:, 0]])
    assert with_positions is not None and without is not None
    torch.testing.assert_close(with_positions, without)
    assert math.isfinite(float(with_positions[1].sum()))


@pytest.mark.parametrize("count", [0, 1])
def test_no_image_and_one(count: int) -> None:
    statistics = feature_statistics([torch.ones(count, 3)] if count else [])
    assert (statistics is None) == (count == 0)
