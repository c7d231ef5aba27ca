"""finetune against the loop that tutorials teach, and against fastai if it is installed: whole commands.

    python benchmarks/finetune.py [--images FOLDER] [--backbone torchvision/resnet18] [--epochs 20] [--rounds 3]

All sides have the same images, division, weights, epochs and batch size. The bound is one decode pass and one pass of
the bare backbone over the same images, and the time Python takes to import torch, torchvision and timm.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path

from common import RIVALS, SAMPLE, TLKIT, divide, in_turn, make_weights, ratio, run, spread, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=SAMPLE / "textures")
    parser.add_argument("--backbone", default="torchvision/resnet18", help="a ResNet of torchvision")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(options, Path(folder))


def compare(options: argparse.Namespace, folder: Path) -> None:
    data = options.images if (options.images / "train").exists() else divide(options.images, folder / "data")
    weights = make_weights(options.backbone, folder)
    accuracies: dict[str, str] = {}

    def tlkit() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            out = Path(fresh) / "run"
            flags = ["--backbone", options.backbone, "--weights", weights, "--epochs", options.epochs, "--out", out]
            ended = run([*TLKIT, "finetune", data, *flags], cache=Path(fresh) / "cache")
            best = next(line for line in ended.err.splitlines() if line.startswith("best "))
            accuracies["tlkit"] = best.split("accuracy ")[1].split(",")[0]
            return ended.seconds

    def rival(name: str) -> float:
        model = options.backbone.partition("/")[2]
        ended = run([sys.executable, RIVALS / f"{name}_finetune.py", data, weights, model, options.epochs])
        accuracies[name] = ended.out.split()[-1]
        return ended.seconds

    def bound() -> float:
        command = [sys.executable, RIVALS / "bare_pass.py", options.backbone, weights, data / "train", data / "val"]
        return sum(map(float, run(command).out.split()))

    sides = {"tlkit": tlkit, "bound": bound, "tutorial": lambda: rival("tutorial")}
    if importlib.util.find_spec("fastai"):
        sides["fastai"] = lambda: rival("fastai")
    found = in_turn(sides, options.rounds)
    table(
        (f"{options.backbone}, {options.epochs} epochs", "seconds", "tlkit = 1", "best validation accuracy"),
        *(
            (name, spread(values), f"{ratio(values, found['tlkit']):.2f}", accuracies.get(name, ""))
            for name, values in found.items()
        ),
    )


if __name__ == "__main__":
    main()
