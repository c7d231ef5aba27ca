"""Measure the sample backbone: a linear head on its frozen features, against random weights and bare pixels.

    python sample_data/measure_backbone.py [FILE] [--architecture NAME] [--seeds N]

prints one Markdown table. Two sets of images: the sample textures, trained on their training folder or on few images
of each class drawn from it, and validated on their validation folder; and scikit-learn's 8 x 8 digits rendered as
images, trained on few images of each class and validated on all the others. Few images are drawn `DRAWS` times. The
head is scikit-learn's logistic regression on standardised features, its C chosen by cross-validation on the training
images alone. Random weights are timm's own initialisation, `--seeds` times.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image, ImageOps
from pretrain_backbone import ARCHITECTURE
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from timm.data import create_transform, resolve_model_data_config
from torch import nn

HERE = Path(__file__).parent
DRAWS = 5  # of the few images that are trained on
STRENGTHS = tuple(10.0**power for power in range(-4, 2))  # C of the logistic regression
DIGIT_SIDE, DIGIT_BORDER = 128, 16  # pixels

Images = list[Image.Image]
Describe = Callable[[Images], np.ndarray]  # images -> features [N, D]


@dataclass(frozen=True)
class Task:
    """Images with their classes, and one or several ways to part them into training and validation (indices)."""

    name: str
    images: Images
    labels: np.ndarray
    parts: Sequence[tuple[np.ndarray, np.ndarray]]

    def accuracies(self, describe: Describe) -> list[float]:
        """Validation accuracy of a linear head on these features, one for each way to part the images."""
        features = describe(self.images)
        return [
            linear_head_accuracy(features[train], self.labels[train], features[val], self.labels[val])
            for train, val in self.parts
        ]


def textures(per_class: int | None = None) -> Task:
    """The sample textures, trained on `per_class` images of each class or on all of them."""
    images: Images = []
    names, folders = [], []
    for path in sorted((HERE / "textures").glob("*/*/*.jpg")):
        with Image.open(path) as opened:
            images.append(opened.convert("RGB"))
        names.append(path.parent.name)
        folders.append(path.parent.parent.name)
    labels = np.array(names)
    train, val = (np.flatnonzero(np.array(folders) == part) for part in ("train", "val"))
    if per_class is None:
        return Task("textures, all 40 a class", images, labels, [(train, val)])
    parts = [(few, val) for few in draw_few(labels, train, per_class)]
    return Task(f"textures, {per_class} a class", images, labels, parts)


def digits(per_class: int) -> Task:
    """scikit-learn's digits as images, trained on `per_class` images of each digit."""
    data = load_digits()
    images = [render_digit(pixels) for pixels in data.images]
    everything = np.arange(len(images))
    parts = [(few, np.setdiff1d(everything, few)) for few in draw_few(data.target, everything, per_class)]
    return Task(f"digits, {per_class} a class", images, data.target, parts)


def draw_few(labels: np.ndarray, candidates: np.ndarray, per_class: int) -> list[np.ndarray]:
    """Draw `per_class` of the candidates (indices) of each class, `DRAWS` times."""
    draws = []
    for seed in range(DRAWS):
        order = np.random.default_rng(seed).permutation(candidates)
        draws.append(np.concatenate([order[labels[order] == label][:per_class] for label in np.unique(labels)]))
    return draws


def render_digit(pixels: np.ndarray) -> Image.Image:
    """Enlarge an 8 x 8 digit of values 0..16, and put a black border round it."""
    small = Image.fromarray((pixels * (255 / 16)).astype(np.uint8))
    large = small.resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BICUBIC)
    return ImageOps.expand(large, DIGIT_BORDER).convert("RGB")


def linear_head_accuracy(train: np.ndarray, train_labels: np.ndarray, val: np.ndarray, val_labels: np.ndarray) -> float:
    """Train a linear head on features [N, D], C chosen by cross-validation, and score it on others."""
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    search = GridSearchCV(head, {"logisticregression__C": STRENGTHS}, cv=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(train, train_labels)
    return float(search.score(val, val_labels))


def frozen_features(network: nn.Module) -> Describe:
    """What the network (built with no classifier) gives for images under its own preprocessing."""
    preprocess = create_transform(**resolve_model_data_config(network), is_training=False)
    network.eval()

    def describe(images: Images) -> np.ndarray:
        with torch.inference_mode():
            chunks = (images[start : start + 64] for start in range(0, len(images), 64))
            return torch.cat([network(torch.stack([preprocess(i) for i in chunk])) for chunk in chunks]).numpy()

    return describe


def bare_pixels(images: Images) -> np.ndarray:
    """The images themselves, made grey and small: what a head gets with no backbone at all."""
    return np.stack([np.asarray(i.convert("L").resize((20, 20), Image.Resampling.BOX)).ravel() for i in images])


def random_network(architecture: str, seed: int) -> nn.Module:
    """The architecture with the weights timm starts it with."""
    torch.manual_seed(seed)
    return timm.create_model(architecture, num_classes=0)


def row(task: Task, architecture: str, file: Path, seeds: int) -> str:
    """One line of the table."""
    pretrained = random_network(architecture, seed=0)
    pretrained.load_state_dict(load_file(file))
    ours = task.accuracies(frozen_features(pretrained))
    random = [np.mean(task.accuracies(frozen_features(random_network(architecture, s)))) for s in range(seeds)]
    spread = f"{np.mean(random):.3f} ± {np.std(random, ddof=1):.3f} ({min(random):.3f}–{max(random):.3f})"
    pixels = np.mean(task.accuracies(bare_pixels))
    return f"| {task.name} | {pixels:.3f} | {spread} | {np.mean(ours):.3f} |"


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description="Measure the sample backbone's frozen features.")
    parser.add_argument("file", nargs="?", type=Path, default=HERE / "backbone.safetensors")
    parser.add_argument("--architecture", default=ARCHITECTURE)
    parser.add_argument("--seeds", type=int, default=5, help="how many random networks (at least 2)")
    arguments = parser.parse_args()
    print("| task | bare pixels | random weights: mean ± deviation (range) | pre-trained |")
    print("|---|---|---|---|")
    for task in (textures(), textures(5), digits(5), digits(20)):
        print(row(task, arguments.architecture, arguments.file, arguments.seeds), flush=True)


if __name__ == "__main__":
    main()
