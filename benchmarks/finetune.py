"""finetune against the loop that tutorials teach, and against fastai if it is installed: whole commands.

    python benchmarks/finetune.py [--images FOLDER] [--backbones torchvision/resnet50 ...] [--rival-epochs 2]

All sides have the same images, division, weights, epochs and batch size; tlkit begins each round with an empty
feature cache. The bound is one decode pass and one pass of the bare backbone over the same images on all cores;
start-up is a Python that imports torch, torchvision and timm. Rivals run the backbone in every epoch:
--rival-epochs N runs N of them, and adds the missing ones at the median seconds of those that ran.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from common import RIVALS, SAMPLE, TLKIT, divide, in_turn, ratios, run, spread, table, weights_of

BATCH_SIZE = 16
IMPORTS = "import torch, torchvision, timm"
HEADER = ("backbone", "side", "seconds", "row / tlkit", "tlkit / row", "validation accuracy")


@dataclass
class Sides:
    """What is compared on one backbone. Each method is a round of a side, in seconds.

    accuracies: of each side, as it last was.
    """

    options: argparse.Namespace
    backbone: str
    data: Path
    weights: Path
    folder: Path
    accuracies: dict[str, str] = field(default_factory=dict)

    def tlkit(self) -> float:
        with tempfile.TemporaryDirectory(dir=self.folder) as fresh:
            out = Path(fresh) / "run"
            flags = ["--backbone", self.backbone, "--weights", self.weights, "--epochs", self.options.epochs]
            like_rivals = ["--head", "linear", "--optimizer", "adamw", "--batch-size", BATCH_SIZE]
            ended = run(
                [*TLKIT, "finetune", self.data, *flags, *like_rivals, "--out", out], cache=Path(fresh) / "cache"
            )
            history = (out / "history.jsonl").read_text().splitlines()
        self.accuracies["tlkit finetune"] = best_and_last([json.loads(line)["val_accuracy"] for line in history])
        return ended.seconds

    def rival(self, name: str, side: str) -> float:
        """A script of rivals/, which prints an accuracy and seconds for each epoch."""
        epochs = self.options.rival_epochs
        ended = run(
            [sys.executable, RIVALS / f"{name}_finetune.py", self.data, self.weights, self.backbone, epochs, BATCH_SIZE]
        )
        lines = [line.split()[1:] for line in ended.out.splitlines() if line.startswith("epoch ")]
        self.accuracies[side] = best_and_last([float(accuracy) for accuracy, _ in lines])
        missing = self.options.epochs - epochs
        if missing:
            self.accuracies[side] += f", after epoch {epochs}"
        return ended.seconds + missing * statistics.median(float(seconds) for _, seconds in lines)

    def bound(self) -> float:
        folders = [self.data / "train", self.data / "val"]
        ended = run([sys.executable, RIVALS / "bare_pass.py", self.backbone, self.weights, *folders])
        return sum(map(float, ended.out.split()))

    def start_up(self) -> float:
        return run([sys.executable, "-c", IMPORTS]).seconds


def main() -> None:
    options = read_options()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = divide(options.images, folder / "data")
        for backbone in options.backbones:
            weights = weights_of(backbone, folder, options.weights)
            rows += compare(Sides(options, backbone, data, weights, folder))
    table(HEADER, *rows)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=SAMPLE / "textures")
    parser.add_argument(
        "--backbones",
        nargs="+",
        default=["torchvision/resnet50", "torchvision/resnet18"],
        metavar="NAME",
        help="torchvision/resnet..., which all rivals know, or timm/NAME, which fastai's is left out for",
    )
    parser.add_argument("--weights", type=Path, help="of the one backbone; random weights are made otherwise")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rival-epochs", type=int, help="epochs that rivals run, the rest extrapolated; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.rival_epochs = min(options.rival_epochs or options.epochs, options.epochs)
    if not all(name.startswith(("torchvision/resnet", "timm/")) for name in options.backbones):
        parser.error("--backbones: the rivals know timm/NAME and torchvision's ResNets only")
    if options.weights and len(options.backbones) > 1:
        parser.error("--weights belongs to one of --backbones; name that one")
    return options


def compare(sides: Sides) -> list[tuple[str, ...]]:
    """The rows of one backbone."""
    epochs, rival_epochs = sides.options.epochs, sides.options.rival_epochs
    manner = f"{epochs} epochs" if epochs == rival_epochs else f"extrapolated from {rival_epochs} to {epochs} epochs"
    tutorial, fastai = f"tutorial loop, {manner}", f"fastai, {manner}"
    plan = {
        "tlkit finetune": sides.tlkit,
        "bound: decode + bare backbone": sides.bound,
        "start-up: imports": sides.start_up,
        tutorial: lambda: sides.rival("tutorial", tutorial),
    }
    if importlib.util.find_spec("fastai") and not sides.backbone.startswith("timm/"):
        plan[fastai] = lambda: sides.rival("fastai", fastai)
    found = in_turn(plan, sides.options.rounds)
    found["bound + start-up"] = [
        sum(pair) for pair in zip(found["bound: decode + bare backbone"], found["start-up: imports"], strict=True)
    ]
    ours = found["tlkit finetune"]
    return [
        (
            sides.backbone,
            side,
            spread(values, digits=1),
            spread(ratios(values, ours)),
            spread(ratios(ours, values)),
            sides.accuracies.get(side, ""),
        )
        for side, values in found.items()
    ]


def best_and_last(accuracies: list[float]) -> str:
    return f"best {max(accuracies):.4f}, last {accuracies[-1]:.4f}"


if __name__ == "__main__":
    main()
