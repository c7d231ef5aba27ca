"""The least that must be done: one decode pass and one pass of the bare backbone over the same images, on all cores.

    python bare_pass.py BACKBONE WEIGHTS FOLDER...

Prints the seconds of start-up, of decoding and of the backbone. Pixels stay in memory between the two.
"""

import os
import sys
import time

BEGAN = time.perf_counter()

import numpy as np  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from tlkit.data.batches import map_in_order, normalise  # noqa: E402
from tlkit.data.listing import find_images  # noqa: E402
from tlkit.model.backbones import find_backbone, preprocessing_of  # noqa: E402


@torch.no_grad()
def main() -> None:
    backbone, weights, *folders = sys.argv[1:]
    source, _, name = backbone.partition("/")
    started = time.perf_counter() - BEGAN
    network = timm.create_model(name) if source == "timm" else torchvision.models.get_model(name)
    network.load_state_dict(load_file(weights))
    network.eval()
    preprocessing = preprocessing_of(find_backbone(backbone), network, None)
    paths = [path for folder in folders for path in find_images(folder)]
    workers = len(os.sched_getaffinity(0))
    began = time.perf_counter()
    pixels = list(map_in_order(preprocessing.load, paths, workers=workers, ahead=64))
    decoded = time.perf_counter()
    batches = [
        normalise(torch.from_numpy(np.stack(pixels[start : start + 32])), preprocessing).contiguous()
        for start in range(0, len(pixels), 32)
    ]
    network(batches[0])
    passing = time.perf_counter()
    for batch in batches:
        network(batch)
    print(f"{started:.3f} {decoded - began:.3f} {time.perf_counter() - passing:.3f}")


if __name__ == "__main__":
    main()
