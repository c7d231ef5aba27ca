"""tlkit backbones: list the backbones that can be loaded."""

from __future__ import annotations

import torch

from tlkit.errors import DONE, MissingInputError, TlkitError
from tlkit.model.backbones import BackboneName, build_network, list_backbones, preferred_image_size, preprocessing_of
from tlkit.options import BackbonesOptions
from tlkit.terminal import compact, count, log_status, write_stdout


def backbones(options: BackbonesOptions) -> int:
    """Print one name per line; with --sizes also parameters and input size. Returns the exit status."""
    found = list_backbones(options.pattern)
    if not found:
        raise MissingInputError(
            f"{options.pattern}", "no backbone has this in its name", "`tlkit backbones` lists all."
        )
    for backbone in found:
        write_stdout("\t".join([str(backbone), *(sizes(backbone) if options.sizes else [])]) + "\n")
    log_status("found", count(len(found), "backbone"))
    return DONE


def sizes(backbone: BackboneName) -> list[str]:
    """Number of parameters and input size; dashes if the backbone cannot be built."""
    size = preferred_image_size(backbone)
    try:
        with torch.device("meta"):
            network = build_network(backbone, 1000, size)
        height, width = preprocessing_of(backbone, network, size).image_size
    except TlkitError:
        return ["-", "-"]
    return [compact(sum(p.numel() for p in network.parameters())), f"{width}x{height}"]
