"""tlkit summary: the layers of a model, their parameters and multiply-adds."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tlkit.errors import DONE
from tlkit.model.backbones import (
    build_network,
    classifier_layers,
    find_backbone,
    preferred_image_size,
    preprocessing_of,
)
from tlkit.model.open import open_model
from tlkit.options import SummaryOptions
from tlkit.terminal import compact, write_stdout


@dataclass(frozen=True)
class Row:
    """A module. parameters, multiply_adds: including its submodules."""

    name: str
    kind: str
    parameters: int
    multiply_adds: int


def summary(options: SummaryOptions) -> int:
    """Print a table of modules and totals. Returns the exit status."""
    if os.path.exists(options.model):
        model = open_model(options.model, options.weights, options.trust_pickle)
        title, network = str(model.description.backbone), model.network
        size = model.preprocessing.image_size
        trained = model.description.trainable
    else:
        backbone = find_backbone(options.model)
        image_size = options.image_size or preferred_image_size(backbone)
        network = build_network(backbone, 1000, image_size)
        title, size = str(backbone), preprocessing_of(backbone, network, image_size).image_size
        replaced = classifier_layers(backbone, network, 1000).output_layers
        trained = sum(p.numel() for name in replaced for p in network.get_submodule(name).parameters())
    rows = rows_of(network, size, options.depth)
    total = rows[0]
    lines = [f"{title} at {size[1]}x{size[0]} px", ""]
    lines += table(rows[1:])
    lines += [
        "",
        f"parameters     {total.parameters:,} ({compact(total.parameters)})",
        f"  frozen       {total.parameters - trained:,}",
        f"  trainable    {trained:,}",
        f"multiply-adds  {compact(total.multiply_adds)} per image",
    ]
    write_stdout("\n".join(lines) + "\n")
    return DONE


@torch.inference_mode()
def rows_of(network: nn.Module, size: tuple[int, int], depth: int) -> list[Row]:
    """The network and its modules down to a depth, with the cost of one image."""
    counter = FlopCounterMode(display=False)
    with counter:
        network.eval()(torch.zeros(1, 3, *size))
    flops = counter.get_flop_counts()
    root = type(network).__name__
    rows = []
    for name, module in network.named_modules():
        if name and name.count(".") >= depth:
            continue
        counts = flops.get(f"{root}.{name}" if name else "Global", {})
        multiply_adds = sum(counts.values()) // 2  # the counter counts both operations
        rows.append(Row(name, type(module).__name__, sum(p.numel() for p in module.parameters()), multiply_adds))
    return rows


def table(rows: list[Row]) -> list[str]:
    """Lines of the table, aligned."""
    names = ["  " * row.name.count(".") + row.name.rpartition(".")[2] for row in rows]
    width = max([len(name) for name in names] + [6])
    kinds = max([len(row.kind) for row in rows] + [4])
    head = f"{'module':<{width}}  {'kind':<{kinds}}  {'parameters':>12}  {'multiply-adds':>13}"
    return [head] + [
        f"{name:<{width}}  {row.kind:<{kinds}}  {row.parameters:>12,}  {compact(row.multiply_adds):>13}"
        for name, row in zip(names, rows, strict=True)
    ]
