"""predict against an inference loop of timm: whole commands, the same model and images.

    python benchmarks/predict.py [--images FOLDER] [--backbones timm/resnet18 ...] [--repeat 4] [--rounds 3] [--bf16]

Images per second of the whole command, and less start-up, which is what the same command takes for one image. The
bound: decoding and the bare backbone on all cores, one after the other, without start-up. Labels and probabilities
of each side are compared with timm's image by image; large JPEGs, which tlkit decodes at a reduced scale, apart from
the rest.

tlkit has a row for model.pt, run by torch, and one for model.onnx, run by onnxruntime. The second needs tlkit[onnx].
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from common import RIVALS, SAMPLE, TLKIT, decoded, in_turn, list_images, ratios, run, spread, table, weights_of

from tlkit.data.preprocessing import Preprocessing
from tlkit.inference.open import open_predictor
from tlkit.options.predict import InferenceOptions

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
TIMM = "timm loop"
Answers = dict[str, tuple[str, float]]
"""The label and its probability, by path."""


@dataclass
class Sides:
    """What is compared on one model. Each side is a function of a folder of images that gives seconds.

    onnx: the run's model.onnx; None without tlkit[onnx]. answers: the last predictions of each side.
    """

    backbone: str
    weights: Path
    model: Path
    state: Path
    classes: list[str]
    onnx: Path | None
    answers: dict[str, Answers] = field(default_factory=dict)

    def commands(self, precisions: list[str]) -> dict[str, Callable[[Path], float]]:
        """All sides, by what their rows are called."""
        sides: dict[str, Callable[[Path], float]] = {}
        for precision in precisions:
            name = f"model.pt, {precision}"
            sides[name] = partial(self.tlkit, name, self.model, "--precision", precision)
        if self.onnx is not None:
            sides["model.onnx"] = partial(self.tlkit, "model.onnx", self.onnx)
        return {**sides, TIMM: self.timm}

    def tlkit(self, name: str, model: Path, *flags: str, images: Path) -> float:
        with tempfile.TemporaryDirectory() as empty:
            command = [*TLKIT, "predict", model, images, "--format", "jsonl", *flags]
            ended = run(command, cache=Path(empty))
        records = map(json.loads, ended.out.splitlines())
        self.answers[name] = {record["path"]: (record["label"], record["probability"]) for record in records}
        return ended.seconds

    def timm(self, images: Path) -> float:
        name = self.backbone.partition("/")[2]
        ended = run([sys.executable, RIVALS / "timm_predict.py", name, len(self.classes), self.state, images])
        rows = [line.rsplit("\t", 2) for line in ended.out.splitlines()]
        self.answers[TIMM] = {path: (self.classes[int(label)], float(value)) for path, label, value in rows}
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
    model, state, onnx = folder / "model.pt", folder / "state.pt", folder / "model.onnx"
    flags = ["--backbone", backbone, "--weights", weights, "--epochs", 1, "--out", folder]
    run([*TLKIT, "finetune", images, *flags], cache=folder.with_suffix(".cache"))
    run([*TLKIT, "export", model, "--format", "state_dict", "-o", state])
    classes = list(json.loads((folder / "split.json").read_text())["classes"])
    if not onnx.exists():
        print("onnxruntime is left out: it needs tlkit[onnx]", file=sys.stderr)
    return Sides(backbone, weights, model, state, classes, onnx if onnx.exists() else None)


def compare(
    sides: Sides, images: Path, one: Path, count: int, rounds: int, precisions: list[str]
) -> list[tuple[str, ...]]:
    """The rows of one backbone."""
    commands = sides.commands(precisions)
    plan = {f"{name}, one image": lambda side=side: side(images=one) for name, side in commands.items()}
    plan |= {name: lambda side=side: side(images=images) for name, side in commands.items()}
    plan["bound"] = lambda: sides.bound(images)
    found = in_turn({f"{sides.backbone}: {side}": run for side, run in plan.items()}, rounds)
    seconds = dict(zip(plan, found.values(), strict=True))
    bound = seconds["bound"]
    quick = {name: without(seconds[f"{name}, one image"], seconds[name]) for name in commands}
    preprocessing = open_predictor(InferenceOptions(model=str(sides.model), device="cpu")).preprocessing
    rows: list[tuple[str, list[float] | None, list[float], str]] = [
        (
            name if name == TIMM else f"tlkit predict {name}",
            seconds[name],
            quick[name],
            "" if name == TIMM else agreement(sides.answers[name], sides.answers[TIMM], preprocessing, count),
        )
        for name in commands
    ]
    rows.append(("bound", None, bound, ""))
    return [
        (
            sides.backbone,
            side,
            spread([count / value for value in whole], digits=1) if whole else "",
            spread([count / value for value in rest], digits=1),
            spread(ratios(seconds[TIMM], whole)) if whole else "",
            spread(ratios(quick[TIMM], rest)),
            spread(ratios(bound, rest)),
            answers,
        )
        for side, whole, rest, answers in rows
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
