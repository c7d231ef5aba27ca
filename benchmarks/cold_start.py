"""One image, whole process: model.pt and model.onnx against what imports and one forward pass take anyway.

python benchmarks/cold_start.py [--backbone timm/resnet18] [--rounds 5]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from common import SAMPLE, TLKIT, in_turn, list_images, make_weights, ratio, run, spread, table

FORWARD = """
import torch, torchvision, timm
model = timm.create_model({name!r}).eval()
with torch.inference_mode():
    model(torch.zeros(1, 3, 224, 224))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="timm/resnet18", help="a model of timm")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = list_images(SAMPLE / "unlabelled")[0]
        weights = make_weights(options.backbone, folder)
        flags = ["--backbone", options.backbone, "--weights", weights, "--epochs", 1, "--out", folder / "run"]
        run([*TLKIT, "finetune", SAMPLE / "textures", *flags], cache=folder / "cache")
        model, onnx = folder / "run" / "model.pt", folder / "model.onnx"
        run([*TLKIT, "export", model, "--format", "onnx", "-o", onnx])
        forward = FORWARD.format(name=options.backbone.partition("/")[2])
        commands = {
            "import torch, torchvision, timm": [sys.executable, "-c", "import torch, torchvision, timm"],
            "the same, and one forward pass": [sys.executable, "-c", forward],
            "tlkit predict model.pt": [*TLKIT, "predict", model, image],
            "tlkit predict model.onnx": [*TLKIT, "predict", onnx, image],
        }
        found = in_turn({name: lambda c=c: run(c).seconds for name, c in commands.items()}, options.rounds)
    reference = found["import torch, torchvision, timm"]
    table(
        (f"one image, {options.backbone}", "seconds", "imports = 1"),
        *((name, spread(values), f"{ratio(values, reference):.2f}") for name, values in found.items()),
    )


if __name__ == "__main__":
    main()
