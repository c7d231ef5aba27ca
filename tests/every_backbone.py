"""A new head on every classification model that torchvision and timm list.

    python tests/every_backbone.py [--pattern P] [--shard I/N]

Each model is built for 7 classes with random weights and checked: only the head trains, two images of its own input
size give logits [2, 7], and what it ships has the keys and shapes of the model that the library builds. The meta
device does this without arithmetic; a model that does not run there is built with real tensors, the largest last.
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
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from tlkit.errors import TlkitError
from tlkit.model.backbones import BackboneName, build_network, list_backbones, preprocessing_of
from tlkit.model.classifier import Classifier, build_classifier

CLASSES = 7
SERVED = {"torchvision": 1.0, "timm": 0.99}
"""The share of each library's models that must be served."""

UNKNOWN = 10**12
"""Stands for the size of a network that could not be counted."""


def check(backbone: BackboneName, device: str) -> None:
    """Raise whatever is wrong with a new head on this backbone."""
    with torch.device(device):
        network = build_network(backbone, CLASSES)
        plain = shapes(network)
        classifier = build_classifier(backbone, network, CLASSES, "linear", None, None)
        require(trains(classifier) == {"head.layers.weight", "head.layers.bias"}, f"trains {trains(classifier)}")
        height, width = preprocessing_of(backbone, network, None).image_size
        with torch.no_grad():
            logits = classifier(torch.randn(2, 3, height, width))
        require(logits.shape == (2, CLASSES), f"logits have shape {list(logits.shape)}")
        shipped = shapes(classifier.shipped())
    require(shipped == plain, f"ships other tensors than the plain model has: {sorted(shipped ^ plain)[:3]}")


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


def outcome(backbone: BackboneName, device: str) -> str:
    """Empty if a model is served, else "refused: ..." or "failed: ..."."""
    try:
        check(backbone, device)
        return ""
    except TlkitError as error:
        return f"refused: {error}"
    except Exception as error:  # a program that looks for every kind of failure
        return f"failed: {type(error).__name__}: {error}"
    finally:
        gc.collect()  # networks hold cycles; two large ones do not fit


def check_all(backbones: Iterable[BackboneName]) -> Counter[tuple[str, bool]]:
    """How many models of each library are served and are not."""
    count: Counter[tuple[str, bool]] = Counter()
    again = []
    for backbone in backbones:
        problem = outcome(backbone, "meta")
        if problem:
            print(f"{backbone} on the meta device {' '.join(problem.split())[:300]}", file=sys.stderr, flush=True)
            again.append(backbone)
        else:
            count[backbone.source, True] += 1
    print(f"{count.total()} are served on the meta device; {len(again)} are tried with real tensors", flush=True)
    for backbone in sorted(again, key=parameters_of):
        problem = outcome(backbone, "cpu")
        if problem:
            print(f"{backbone} {' '.join(problem.split())[:300]}", flush=True)
        count[backbone.source, not problem] += 1
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pattern", help="only models whose name contains this")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="every N-th model, from the I-th on")
    options = parser.parse_args()
    first, step = map(int, options.shard.split("/"))
    backbones = list_backbones(options.pattern)[first::step]
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
