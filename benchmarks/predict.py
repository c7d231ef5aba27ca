"""predict against an inference loop of timm: whole commands, the same model and images.

    python benchmarks/predict.py [--images FOLDER] [--backbone timm/resnet18] [--repeat 1] [--rounds 3]

Prints images per second with start-up, and without (start-up is what the same command takes for one image). The
bound: decoding and the bare backbone on all cores, one after the other. Labels and probabilities are compared.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from common import RIVALS, SAMPLE, TLKIT, in_turn, list_images, make_weights, ratio, run, spread, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=SAMPLE / "textures")
    parser.add_argument("--backbone", default="timm/resnet18", help="a model of timm")
    parser.add_argument("--repeat", type=int, default=1, help="times each image is predicted, by links")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(options, Path(folder))


def compare(options: argparse.Namespace, folder: Path) -> None:
    images, one = link_images(options.images, options.repeat, folder)
    weights = make_weights(options.backbone, folder)
    flags = ["--backbone", options.backbone, "--weights", weights, "--epochs", 5, "--out", folder / "run"]
    run([*TLKIT, "finetune", options.images, *flags], cache=folder / "cache")
    state = folder / "state.pt"
    run([*TLKIT, "export", folder / "run", "--format", "state_dict", "-o", state])
    classes = sorted(entry.name for entry in class_folder(options.images).iterdir() if entry.is_dir())
    outputs: dict[str, str] = {}

    def tlkit(where: Path) -> float:
        ended = run([*TLKIT, "predict", folder / "run", where])
        outputs["tlkit"] = ended.out
        return ended.seconds

    def timm(where: Path) -> float:
        name = options.backbone.partition("/")[2]
        ended = run([sys.executable, RIVALS / "timm_predict.py", name, len(classes), state, where])
        outputs["timm"] = ended.out
        return ended.seconds

    def bound() -> float:
        _, decoding, passing = run(
            [sys.executable, RIVALS / "bare_pass.py", options.backbone, weights, images]
        ).out.split()
        return float(decoding) + float(passing)

    sides = {
        "tlkit, one image": lambda: tlkit(one),
        "timm, one image": lambda: timm(one),
        "tlkit": lambda: tlkit(images),
        "timm": lambda: timm(images),
        "bound, no start-up": bound,
    }
    found = in_turn(sides, options.rounds)
    count = len(os.listdir(images))
    for name in ("tlkit", "timm"):
        found[f"{name}, no start-up"] = [
            whole - start for whole, start in zip(found[name], found[f"{name}, one image"], strict=True)
        ]
    rows = ["timm", "tlkit", "timm, no start-up", "tlkit, no start-up", "bound, no start-up"]
    table(
        (f"{options.backbone}, {count} images", "images/s", "of timm", "of the bound"),
        *(
            (
                name,
                spread([count / seconds for seconds in found[name]], ""),
                f"{1 / ratio(found[name], found['timm' if name in ('timm', 'tlkit') else 'timm, no start-up']):.2f}",
                f"{1 / ratio(found[name], found['bound, no start-up']):.2f}",
            )
            for name in rows
        ),
    )
    print(agreement(outputs["tlkit"], outputs["timm"], classes))


def link_images(source: Path, repeat: int, folder: Path) -> tuple[Path, Path]:
    """A flat folder of links to all images, so many times over; and one of a single link."""
    images, one = folder / "images", folder / "one"
    images.mkdir()
    one.mkdir()
    for number, path in enumerate(list_images(source) * repeat):
        os.symlink(os.path.abspath(path), images / f"{number:07d}{path.suffix}")
        if number == 0:
            os.symlink(os.path.abspath(path), one / path.name)
    return images, one


def class_folder(images: Path) -> Path:
    """Where the class folders lie."""
    return images / "train" if (images / "train").is_dir() else images


def agreement(ours: str, theirs: str, classes: list[str]) -> str:
    """How often labels agree, and how far probabilities are apart."""
    first = {path: (label, float(value)) for path, label, value in (line.split("\t") for line in ours.splitlines())}
    second = {
        path: (classes[int(label)], float(value))
        for path, label, value in (line.split("\t") for line in theirs.splitlines())
    }
    same = sum(first[path][0] == label for path, (label, _) in second.items())
    apart = max(abs(first[path][1] - value) for path, (_, value) in second.items())
    return f"same label on {same} of {len(second)} images, probabilities differ by {apart:.1e} at most"


if __name__ == "__main__":
    main()
