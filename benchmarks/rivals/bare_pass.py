"""The least that must be done: one decode pass and one pass of the bare backbone over the same images, on all cores.

    python bare_pass.py BACKBONE WEIGHTS FOLDER...

Prints the seconds of decoding and of the backbone, one after the other. Pixels stay in memory between the two;
neither making batches of them nor the first pass, which warms up, is counted.
"""

import os
import sys
import time

import numpy as np
import timm
import torch
import torchvision
from safetensors.torch import load_file

from tlkit.data.decoders import open_decoder
from tlkit.data.listing import find_images
from tlkit.data.normalize import normalize
from tlkit.data.ordered_map import map_in_order
from tlkit.data.view import View
from tlkit.model.backbones import find_backbone, preprocessing_of


@torch.no_grad()
def main() -> None:
    backbone, weights, *folders = sys.argv[1:]
    source, _, name = backbone.partition("/")
    network = timm.create_model(name) if source == "timm" else torchvision.models.get_model(name)
    network.load_state_dict(load_file(weights), strict=False)  # a file may lack the classifier
    network.eval()
    preprocessing = preprocessing_of(find_backbone(backbone), network, None)
    paths = [path for folder in folders for path in find_images(folder)]
    workers = len(os.sched_getaffinity(0))
    decoder, view = open_decoder(workers), View(preprocessing)
    began = time.perf_counter()
    pixels = list(map_in_order(lambda path: decoder.load(path, view).pixels, paths, workers=workers, ahead=64))
    decoding = time.perf_counter() - began
    seconds = []
    for start in (0, *range(0, len(pixels), 32)):  # the first batch warms up, and passes once more
        batch = normalize(torch.from_numpy(np.stack(pixels[start : start + 32])), preprocessing).contiguous()
        began = time.perf_counter()
        network(batch)
        seconds.append(time.perf_counter() - began)
    print(f"{decoding:.3f} {sum(seconds[1:]):.3f}")


if __name__ == "__main__":
    main()
