"""One image, whole process: model.pt by torch, a run by model.onnx, compared with imports and one forward pass.

python benchmarks/cold_start.py [--images FOLDER] [--backbone timm/resnet18] [--rounds 5]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common import SAMPLE, TLKIT, in_turn, list_images, ratios, run, spread, table, weights_of

IMPORTS = "import torch, torchvision, timm"
FORWARD = """
import sys
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from safetensors.torch import load_file
model = timm.create_model(sys.argv[1])
model.load_state_dict(load_file(sys.argv[2]), strict=False)  # a file may lack the classifier
model.eval()
transform = create_transform(**resolve_model_data_config(model))
with torch.inference_mode():
    model(transform(Image.open(sys.argv[3]).convert("RGB"))[None])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=SAMPLE / "textures")
    parser.add_argument("--backbone", default="timm/resnet18", metavar="timm/NAME", help="a model of timm")
    parser.add_argument("--weights", type=Path, help="of the backbone; random weights are made otherwise")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands = prepare(options, folder)
        sides = {side: lambda c=c: run(c, folder / "empty").seconds for side, c in commands.items()}
        found = in_turn(sides, options.rounds)
    imports = found[IMPORTS]
    table(
        (f"one image, {options.backbone}", "seconds", "imports = 1"),
        *((side, spread(values), spread(ratios(values, imports))) for side, values in found.items()),
    )


def prepare(options: argparse.Namespace, folder: Path) -> dict[str, Sequence[object]]:
    """The commands to compare, with the model that they need."""
    image = list_images(options.images)[0]
    weights = weights_of(options.backbone, folder, options.weights)
    flags = ["--backbone", options.backbone, "--weights", weights, "--epochs", 1, "--out", folder / "run"]
    run([*TLKIT, "finetune", options.images, *flags], cache=folder / "cache")
    model, onnx = folder / "run" / "model.pt", folder / "run" / "model.onnx"
    name = options.backbone.partition("/")[2]
    commands: dict[str, Sequence[object]] = {
        IMPORTS: [sys.executable, "-c", IMPORTS],
        "the same, and one forward pass by timm": [sys.executable, "-c", IMPORTS + FORWARD, name, weights, image],
        "tlkit predict model.pt": [*TLKIT, "predict", model, image],
    }
    if onnx.exists():
        commands["tlkit predict RUN, by model.onnx"] = [*TLKIT, "predict", onnx.parent, image]
    else:
        print("model.onnx is skipped: it needs tlkit[onnx]", file=sys.stderr)
    return commands


if __name__ == "__main__":
    main()
