"""What a run that trains the whole backbone takes, by the ways to need less: memory at its peak, and seconds.

    python benchmarks/training_memory.py [--backbone timm/resnet26] [--images FOLDER] [--batch-size 32]

Each way is one `tlkit finetune --unfreeze all` of one epoch on the CPU, start-up included; the first row, which
trains the head alone, is what there is beside activations, gradients and optimizer.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from common import SAMPLE, TLKIT, run, table, weights_of

WAYS = {
    "head alone": ["--no-cache"],
    "whole batch": ["--unfreeze", "all"],
    "--accumulate 2": ["--unfreeze", "all", "--accumulate", "2"],
    "--accumulate 8": ["--unfreeze", "all", "--accumulate", "8"],
    "--gradient-checkpointing": ["--unfreeze", "all", "--gradient-checkpointing"],
    "both": ["--unfreeze", "all", "--accumulate", "8", "--gradient-checkpointing"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="timm/resnet26")
    parser.add_argument("--images", type=Path, default=SAMPLE / "textures")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=128)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = weights_of(options.backbone, folder)
        size = ["--epochs", 1, "--batch-size", options.batch_size, "--image-size", options.image_size]
        where = ["--backbone", options.backbone, "--weights", weights, *size]
        for number, (way, flags) in enumerate(WAYS.items()):
            command = [*TLKIT, "finetune", options.images, *where, "--out", folder / f"run{number}", *flags]
            finished = run(command, cache=folder / "cache")
            rows.append((way, f"{finished.memory / 1e6:,.0f}", f"{finished.seconds:.1f}"))
    table(("way", "largest MB", "seconds"), *rows)


if __name__ == "__main__":
    main()
