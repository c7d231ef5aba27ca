"""predict against an inference loop of timm: whole commands, the same model and images.

    python benchmarks/predict.py [--images FOLDER] [--backbones timm/resnet18 ...] [--repeat 4] [--rounds 3] [--bf16]

Images per second of the whole command, and less start-up, which is what the same command takes for one image. The
bound: decoding and the bare backbone on all cores, one after the other, without start-up. Labels and probabilities
of the two sides are compared image by image; large JPEGs, which tlkit decodes at a reduced scale, apart from the rest.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from common import RIVALS, SAMPLE, TLKIT, decoded, in_turn, list_images, ratios, run, spread, table, weights_of

from tlkit.commands.labellers import open_labeller
from tlkit.data.preprocessing import Preprocessing
from tlkit.options.devices import Placing

HEADER = (
    "backbone",
    "side",
    "images/s",
    "less start-up",
    "of timm",
    "of timm, less start-up",
    "of the bound",
    "answers",
)
Answers = dict[str, tuple[str, float]]
"""The label and its probability, by path."""


@dataclass
class Sides:
    """What is compared on one model. Each method is a round of a side over a folder of images, in seconds.

    answers: of each side, as they last were.
    """

    backbone: str
    weights: Path
    model: Path
    state: Path
    classes: list[str]
    answers: dict[str, Answers] = field(default_factory=dict)

    def tlkit(self, images: Path, precision: str = "fp32") -> float:
        ended = run([*TLKIT, "predict", self.model, images, "--format", "jsonl", "--precision", precision])
        records = map(json.loads, ended.out.splitlines())
        self.answers[precision] = {record["path"]: (record["label"], record["probability"]) for record in records}
        return ended.seconds

    def timm(self, images: Path) -> float:
        name = self.backbone.partition("/")[2]
        ended = run([sys.executable, RIVALS / "timm_predict.py", name, len(self.classes), self.state, images])
        rows = [line.rsplit("\t", 2) for line in ended.out.splitlines()]
        self.answers["timm"] = {path: (self.classes[int(label)], float(value)) for path, label, value in rows}
        return ended.seconds

    def bound(self, images: Path) -> float:
        ended = run([sys.executable, RIVALS / "bare_pass.py", self.backbone, self.weights, images])
        return sum(map(float, ended.out.split()))


def main() -> None:
    options = read_options()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images, one = folder / "images", folder / "one"
        count = copy_images(options.images, options.repeat, images)
        copy_images(options.images, 1, one, most=1)
        for number, backbone in enumerate(options.backbones):
            weights = weights_of(backbone, folder, options.weights)
            sides = prepare(backbone, weights, options.images, folder / f"model{number}")
            rows += compare(sides, images, one, count, options.rounds, ["fp32"] + ["bf16"] * options.bf16)
    table(HEADER, *rows)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=SAMPLE / "textures")
    parser.add_argument(
        "--backbones",
        nargs="+",
        default=["timm/resnet18", "timm/resnet50", "timm/mobilenetv3_small_100"],
        metavar="timm/NAME",
        help="models of timm",
    )
    parser.add_argument("--weights", type=Path, help="of the one backbone; random weights are made otherwise")
    parser.add_argument("--repeat", type=int, default=4, help="times each image is predicted, by copies")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="also in bf16, which processors without it do very slowly")
    options = parser.parse_args()
    if not all(name.startswith("timm/") for name in options.backbones):
        parser.error("--backbones: the rival knows timm's models only, written timm/NAME")
    if options.weights and len(options.backbones) > 1:
        parser.error("--weights belongs to one of --backbones; name that one")
    return options


def copy_images(source: Path, repeat: int, folder: Path, most: int | None = None) -> int:
    """A flat folder of all images so many times over; returns how many. Copies, as a folder's links to one file
    count once."""
    folder.mkdir()
    paths = (list_images(source) * repeat)[:most]
    for number, path in enumerate(paths):
        shutil.copyfile(path, folder / f"{number:07d}{path.suffix}")
    return len(paths)


def prepare(backbone: str, weights: Path, images: Path, folder: Path) -> Sides:
    """A model after one epoch, for tlkit and as the plain state dict that timm loads."""
    model, state = folder / "model.pt", folder / "state.pt"
    flags = ["--backbone", backbone, "--weights", weights, "--epochs", 1, "--out", folder]
    run([*TLKIT, "finetune", images, *flags], cache=folder.with_suffix(".cache"))
    run([*TLKIT, "export", model, "--format", "state_dict", "-o", state])
    classes = list(json.loads((folder / "split.json").read_text())["classes"])
    return Sides(backbone, weights, model, state, classes)


def compare(
    sides: Sides, images: Path, one: Path, count: int, rounds: int, precisions: list[str]
) -> list[tuple[str, ...]]:
    """The rows of one backbone."""
    plan = {
        "tlkit, one image": lambda: sides.tlkit(one),
        "timm, one image": lambda: sides.timm(one),
        **{f"tlkit, {name}": lambda name=name: sides.tlkit(images, name) for name in precisions},
        "timm": lambda: sides.timm(images),
        "bound": lambda: sides.bound(images),
    }
    found = in_turn({f"{sides.backbone}: {side}": run for side, run in plan.items()}, rounds)
    tlkit_one, timm_one, *ours, timm, bound = found.values()
    preprocessing = open_labeller(str(sides.model), None, Placing(("cpu",)), "fp32", None).preprocessing
    quick_timm = without(timm_one, timm)
    rows: list[tuple[str, list[float] | None, list[float], str]] = [
        (
            f"tlkit predict --precision {name}",
            whole,
            without(tlkit_one, whole),
            agreement(sides.answers[name], sides.answers["timm"], preprocessing, count),
        )
        for name, whole in zip(precisions, ours, strict=True)
    ]
    rows += [("timm loop", timm, quick_timm, ""), ("bound", None, bound, "")]
    return [
        (
            sides.backbone,
            side,
            spread([count / seconds for seconds in whole], digits=1) if whole else "",
            spread([count / seconds for seconds in quick], digits=1),
            spread(ratios(timm, whole)) if whole else "",
            spread(ratios(quick_timm, quick)),
            spread(ratios(bound, quick)),
            answers,
        )
        for side, whole, quick, answers in rows
    ]


def without(start: list[float], whole: list[float]) -> list[float]:
    """Seconds of each round, less those of start-up."""
    return [seconds - first for seconds, first in zip(whole, start, strict=True)]


def is_reduced(path: str, preprocessing: Preprocessing) -> bool:
    """Whether tlkit decodes an image at a reduced scale: its pixels, and so probabilities, are not those of timm."""
    return decoded(path, preprocessing.shortest_side).size != decoded(path).size


def agreement(ours: Answers, theirs: Answers, preprocessing: Preprocessing, count: int) -> str:
    """How often labels agree, and how far their probabilities are apart."""
    assert len(ours) == len(theirs) == count, f"{len(ours)} and {len(theirs)} answers for {count} images"
    same = sum(ours[path][0] == label for path, (label, _) in theirs.items())
    apart: dict[bool, list[float]] = {False: [], True: []}
    for path, (_, value) in theirs.items():
        apart[is_reduced(path, preprocessing)].append(abs(ours[path][1] - value))
    parts = [
        f"{len(values)} {name} within {max(values):.1e}"
        for name, values in zip(("at full size", "at a reduced scale"), apart.values(), strict=True)
        if values
    ]
    return f"same label on {same} of {count}; probabilities: {', '.join(parts)}"


if __name__ == "__main__":
    main()
