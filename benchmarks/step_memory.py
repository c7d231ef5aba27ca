"""Memory over the optimizer steps of one run that trains part of the backbone: it must be flat.

    python benchmarks/step_memory.py [--steps 1000] [-- --accumulate 2 --precision bf16 ...]

Runs `tlkit finetune --unfreeze` on the sample photographs in this process, and looks after every hundredth step:
resident memory (on a GPU also what its tensors take), tensors alive, and those of them that carry a graph.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
from typing import Any

from common import SAMPLE, SAMPLE_BACKBONE, SAMPLE_WEIGHTS, table

BATCH, IMAGES = 4, 200
"""Of each step, and in the sample's training part."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("flags", nargs="*", help="more flags of finetune, after --")
    options = parser.parse_args()
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from tlkit.cli import run

    rows: list[tuple[int, ...]] = []
    steps = 0

    def look(*about: Any) -> None:
        nonlocal steps
        steps += 1
        if steps % options.every == 0:
            rows.append((steps, *measures()))

    register_optimizer_step_post_hook(look)
    epochs = -(-options.steps * BATCH // IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TLKIT_CACHE"] = os.path.join(folder, "cache")
        where = ["--backbone", SAMPLE_BACKBONE, "--weights", str(SAMPLE_WEIGHTS), "--out", os.path.join(folder, "run")]
        size = ["--epochs", str(epochs), "--batch-size", str(BATCH), "--image-size", "64", "--unfreeze", "stages.3"]
        status = run(["finetune", str(SAMPLE / "textures"), *where, *size, *options.flags])
    first = rows[0]
    cells = [
        (f"{done:,}", f"{memory / 1e6:,.1f}", f"{(memory - first[1]) / 1e6:+.1f}", f"{gpu / 1e6:,.1f}", alive, graphs)
        for done, memory, gpu, alive, graphs in rows
    ]
    table(("step", "resident MB", "since the first", "on the GPU MB", "tensors alive", "of them with a graph"), *cells)
    return status


def measures() -> tuple[int, int, int, int]:
    """Resident bytes, bytes of tensors on GPUs, tensors alive, and those that carry a graph."""
    import torch

    alive = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    on_gpus = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    return resident, on_gpus, len(alive), sum(tensor.grad_fn is not None for tensor in alive)


if __name__ == "__main__":
    sys.exit(main())
