"""How long a head takes on vectors in memory.

python benchmarks/head.py [--vectors 10000] [--features 2048] [--epochs 20] [--rounds 3]
"""

from __future__ import annotations

import argparse
import time

import torch
from common import in_turn, spread, table
from torch import nn

from tlkit.data.batches import FeatureBatches
from tlkit.model.head import HEADS, Head, HeadShape
from tlkit.options import FinetuneOptions
from tlkit.runs.train_loop import few_threads
from tlkit.training.loop import Trainer
from tlkit.training.optimizer import build_optimizer
from tlkit.training.state import TrainingState

CLASSES = 10


class OnlyHead(nn.Module):
    """What a state keeps of a classifier."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def trainable_state(self) -> dict[str, torch.Tensor]:
        return self.head.state_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sides = {size: lambda size=size: seconds(options, int(size)) for size in ("16", "64", "256")}
    found = in_turn(sides, options.rounds)
    table(
        (f"{options.epochs} epochs of {options.vectors} x {options.features}: batch size", "seconds"),
        *((size, spread(values)) for size, values in found.items()),
    )


def seconds(options: argparse.Namespace, batch_size: int) -> float:
    """Train a head by the loop that finetune runs, with its defaults."""
    defaults = FinetuneOptions(data="", epochs=options.epochs)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (options.vectors,), generator=generator)
    vectors = torch.randn(options.vectors, options.features, generator=generator)
    module = OnlyHead(Head(HEADS["linear"], HeadShape(options.features, CLASSES)))
    state = TrainingState(module, build_optimizer(module.head, nn.Module(), defaults))
    batches = FeatureBatches([vectors], labels, batch_size, 0)
    validation = FeatureBatches([vectors[:1000]], labels[:1000], 4096, None)
    began = time.perf_counter()
    with few_threads(module.head, batch_size):
        cpu = torch.device("cpu")
        Trainer(module.head, state, batches, validation, defaults, torch.ones(CLASSES), cpu).train()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
