"""A new head on every classification model that torchvision and timm list.

    python tests/every_backbone.py [--pattern P] [--shard I/N]

Each model is built for 7 classes with random weights and checked: only the head trains, two images of its own input
size give logits [2, 7], and what it ships has the keys and shapes of the model that the library builds. The meta
device does this without arithmetic. The smallest model of each architecture, and every one that does not run there, is
built with real tensors too, the largest last, and must ship as a network that gives the same logits.
Prints a line for each model that is refused or fails, and a closing count for each library; exits non-zero when
fewer are served than SERVED says.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from tlkit.errors import TlkitError
from tlkit.model.backbones import BackboneName, build_network, list_backbones, preprocessing_of
from tlkit.model.classifier import Classifier, build_classifier

CLASSES = 7
SERVED = {"torchvision": 1.0, "timm": 0.99}
"""The share of each library's models that must be served."""

UNKNOWN = 10**12
"""Stands for the size of a network that could not be counted."""


@dataclass(frozen=True)
class Kind:
    """architecture: the network's class and its classifier's layers. size: in parameters."""

    architecture: str
    size: int


def check(backbone: BackboneName, device: str) -> Kind:
    """Raise whatever is wrong with a new head on this backbone."""
    with torch.device(device):
        network = build_network(backbone, CLASSES)
        plain = shapes(network)
        classifier = build_classifier(backbone, network, CLASSES, "linear", None, None)
        head = {f"head.{name}" for name, _ in classifier.head.named_parameters()}
        require(trains(classifier) == head, f"trains {trains(classifier)}")
        height, width = preprocessing_of(backbone, network, None).image_size
        images = torch.randn(2, 3, height, width)
        logits = use(classifier, images)
        shipped = classifier.to_plain_network()
    difference = shapes(shipped) ^ plain
    require(not difference, f"exports other tensors than the plain model has: {sorted(difference)[:3]}")
    if device == "cpu":
        with torch.no_grad():
            error = (shipped(images) - logits).abs().max() / logits.abs().max()
        require(error < 1e-4, f"exports a network whose logits differ by {error:.1e}")
    size = sum(parameter.numel() for parameter in network.parameters())
    return Kind(f"{type(network).__name__} {classifier.backbone.layers}", size)


@torch.no_grad()
def use(classifier: Classifier, images: Tensor) -> Tensor:
    """Logits of a head that is like a trained one."""
    head = classifier.head
    head.set_standardization(torch.randn(head.mean.shape), torch.rand(head.std.shape) + 0.5)
    for parameter in head.parameters():
        parameter.normal_()
    logits: Tensor = classifier(images)
    require(logits.shape == (2, CLASSES), f"logits have shape {list(logits.shape)}")
    return logits


def shapes(network: nn.Module) -> set[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a state dict."""
    return {(name, tuple(tensor.shape)) for name, tensor in network.state_dict().items()}


def trains(classifier: Classifier) -> set[str]:
    """Names of the parameters that train."""
    return {name for name, parameter in classifier.named_parameters() if parameter.requires_grad}


def require(truth: bool, complaint: str) -> None:
    if not truth:
        raise AssertionError(complaint)


def parameters_of(backbone: BackboneName) -> int:
    """How many parameters a network has, counted without making them."""
    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in build_network(backbone, CLASSES).parameters())
    except Exception:  # what cannot be built there is what comes last
        return UNKNOWN


def outcome(backbone: BackboneName, device: str) -> tuple[Kind | None, str]:
    """What kind of model one is that is served, and what is wrong with one that is not."""
    try:
        return check(backbone, device), ""
    except TlkitError as error:
        return None, f"refused: {error}"
    except Exception as error:  # a program that looks for every kind of failure
        return None, f"failed: {type(error).__name__}: {error}"
    finally:
        gc.collect()  # networks hold cycles; two large ones do not fit


def check_all(backbones: Sequence[BackboneName]) -> Counter[tuple[str, bool]]:
    """How many models of each library are served and are not."""
    real: set[BackboneName] = set()
    sizes: dict[BackboneName, int] = {}
    smallest: dict[str, BackboneName] = {}
    for backbone in backbones:
        kind, problem = outcome(backbone, "meta")
        if kind is None:
            report(backbone, f"on the meta device {problem}", sys.stderr)
            sizes[backbone] = parameters_of(backbone)
            real.add(backbone)
        else:
            sizes[backbone] = kind.size
            so_far = smallest.setdefault(kind.architecture, backbone)
            smallest[kind.architecture] = min(so_far, backbone, key=sizes.__getitem__)
    real.update(smallest.values())
    print(f"{len(backbones)} on the meta device; {len(real)} with real tensors", flush=True)
    count = Counter((backbone.source, True) for backbone in backbones if backbone not in real)
    for backbone in sorted(real, key=sizes.__getitem__):
        _, problem = outcome(backbone, "cpu")
        if problem:
            report(backbone, problem, sys.stdout)
        count[backbone.source, not problem] += 1
    return count


def report(backbone: BackboneName, problem: str, stream: TextIO) -> None:
    print(f"{backbone} {' '.join(problem.split())[:300]}", file=stream, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pattern", help="only models whose name contains this")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="every N-th model, from the I-th on")
    options = parser.parse_args()
    start, step = map(int, options.shard.split("/"))
    backbones = list_backbones(options.pattern)[start::step]
    began = time.monotonic()
    count = check_all(backbones)
    enough = bool(backbones)
    for source, share in SERVED.items():
        served, total = count[source, True], count[source, True] + count[source, False]
        if total:
            print(f"{source}: {served} of {total} served ({served / total:.1%})")
            enough = enough and served >= share * total
    print(f"{time.monotonic() - began:.0f} s")
    return 0 if enough else 1


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # remarks of the libraries on their own models
    torch.set_num_threads(1)
    sys.exit(main())
