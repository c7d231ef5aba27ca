"""Pre-train the sample backbone on images made by formulas alone.

    python sample_data/pretrain_backbone.py [FILE]

renders a few hundred classes of formula images (`formula_images.py`), trains a small timm architecture to tell the
classes apart, and writes its weights, less the classifier, to FILE (default: `backbone.safetensors` beside this
script). No photograph and no download is involved. The same seed gives the same images and the same order; weights
agree to the last bit only between runs on the same processor type, thread count and torch version.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from formula_images import render_images
from safetensors.torch import save_file
from torch import Tensor, nn

ARCHITECTURE = "test_byobnet"  # of timm
CLASSES = {"fractal": 110, "glyph": 110, "field": 60, "cells": 60, "leaves": 60, "stripes": 20}
SHAPES = ("fractal", "glyph")  # families whose classes are told by their form, upright; the others are textures
PRINT_EVERY = 100  # steps
MAX_TURN = {True: math.radians(20), False: math.pi}  # of a shape, of a texture


@dataclass(frozen=True)
class Recipe:
    """Everything the training depends on, beside the formulas."""

    images_per_class: int = 12
    stages: tuple[tuple[int, int], ...] = ((1800, 96), (400, 160))  # (steps, pixels of a side): small first, for speed
    batch_size: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    seed: int = 0

    @property
    def steps(self) -> int:
        """Steps of all stages together."""
        return sum(steps for steps, _ in self.stages)


def random_views(images: Tensor, is_shape: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Turn, zoom, mirror, shade and tint images: uint8 [B, S, S] -> float32 [B, 3, side, side] in 0..1."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(len(images), *shape).uniform_(low, high, generator=generator)

    turn = uniform(-1, 1) * torch.where(is_shape, MAX_TURN[True], MAX_TURN[False])
    zoom = uniform(0.5, 1) + 0.3 * is_shape
    mirror = torch.where(is_shape | (uniform(0, 1) < 0.5), 1.0, -1.0)
    stretch = torch.exp(uniform(-0.2, 0.2))
    cos, sin = torch.cos(turn) * zoom, torch.sin(turn) * zoom
    to_x = torch.stack([cos * mirror * stretch, -sin, uniform(-0.15, 0.15)], 1)
    to_y = torch.stack([sin * mirror, cos / stretch, uniform(-0.15, 0.15)], 1)
    grid = F.affine_grid(torch.stack([to_x, to_y], 1), [len(images), 1, side, side], align_corners=False)
    views = F.grid_sample(images[:, None].float() / 255, grid, padding_mode="reflection", align_corners=False)

    one = (1, 1, 1)  # drawn once for all channels and pixels of an image
    views = torch.lerp(views, blur(views), uniform(0, 1, *one))
    views = views - views.mean((2, 3), keepdim=True)
    views = views / (views.std((2, 3), keepdim=True) + 0.05)
    contrast = uniform(0.06, 0.3, *one) * torch.where(uniform(0, 1, *one) < 0.3, -1, 1)
    views = views * contrast + uniform(0.2, 0.75, *one)
    noise = torch.empty_like(views).normal_(generator=generator) * uniform(0, 0.06, *one)
    tint = 1 + 0.15 * torch.empty(len(images), 3, 1, 1).normal_(generator=generator)
    return ((views + noise) * tint).clamp(0, 1)


def blur(views: Tensor) -> Tensor:
    """Each pixel's mean over the 5 x 5 pixels about it."""
    return F.avg_pool2d(views, 5, stride=1, padding=2, count_include_pad=False)


def batches(recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the training steps' views [B, 3, side, side] and class numbers [B]."""
    images = render_images(CLASSES, recipe.images_per_class, recipe.seed).flatten(0, 1)
    is_shape = torch.cat([torch.full((count,), name in SHAPES) for name, count in CLASSES.items()])
    generator = torch.Generator().manual_seed(recipe.seed)
    for steps, side in recipe.stages:
        for _ in range(steps):
            chosen = torch.randint(len(images), (recipe.batch_size,), generator=generator)
            labels = chosen // recipe.images_per_class
            yield random_views(images[chosen], is_shape[labels], side, generator), labels


def train(recipe: Recipe) -> nn.Module:
    """Train the architecture on the formula images; print loss and accuracy as it goes."""
    torch.manual_seed(recipe.seed)
    network = timm.create_model(ARCHITECTURE, num_classes=sum(CLASSES.values()))
    network = network.to(memory_format=torch.channels_last)  # takes about half the time on a processor
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps, pct_start=0.15)
    started = time.monotonic()
    for step, (views, labels) in enumerate(batches(recipe), start=1):
        logits = network(((views - mean) / std).contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % PRINT_EVERY == 0:
            accuracy = (logits.argmax(1) == labels).float().mean()
            seconds = time.monotonic() - started
            print(f"step {step}: loss {loss:.3f}, accuracy {accuracy:.3f}, {seconds:.0f} s", flush=True)
    return network


def save_backbone(network: nn.Module, path: Path) -> None:
    """Write the state dict in the architecture's own key names, less the classifier's."""
    classifier = network.pretrained_cfg["classifier"]
    weights = {
        key: value.contiguous() for key, value in network.state_dict().items() if not key.startswith(f"{classifier}.")
    }
    save_file(weights, path)


def main() -> None:
    """Read the command line, train and save."""
    parser = argparse.ArgumentParser(description="Pre-train the sample backbone on formula images.")
    parser.add_argument("file", nargs="?", type=Path, default=Path(__file__).with_name("backbone.safetensors"))
    save_backbone(train(Recipe()), parser.parse_args().file)


if __name__ == "__main__":
    main()
