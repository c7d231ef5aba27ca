"""tlkit fetch: pack the pretrained weights of a backbone for a machine without network."""

from __future__ import annotations

import os
import shlex

from tlkit.errors import DONE, OutputError
from tlkit.files.atomic import replaced_when_whole
from tlkit.files.storage import writing
from tlkit.model.backbones import build_network, download_weights, find_backbone, preprocessing_of, pretrained_outputs
from tlkit.model.weights import Weights, load_weights
from tlkit.model.weights_folder import write_folder
from tlkit.options import FetchOptions
from tlkit.terminal import log_status, write_stdout


def fetch(options: FetchOptions) -> int:
    """Download weights, check that they fit the network, write a folder, print its path. Returns the exit status."""
    backbone = find_backbone(options.backbone)
    folder = options.output or backbone.name
    output = os.path.abspath(folder)
    if os.path.lexists(output):
        raise OutputError(folder, "already exists", "Choose another folder: --output DIR")
    if not os.path.isdir(os.path.dirname(output)):
        raise OutputError(folder, f"cannot be created: there is no folder {os.path.dirname(output)}")
    network = build_network(backbone, pretrained_outputs(backbone))
    load_weights(network, backbone, Weights(str(backbone), download_weights(backbone, network)), ())
    with replaced_when_whole(output) as aside, writing(output):
        write_folder(aside, backbone, network.state_dict(), preprocessing_of(backbone, network, None))
    log_status("fetched", f"weights and preprocessing of {backbone}; copy the folder to the other machine, and there:")
    log_status("next", f"tlkit finetune DATA --backbone {backbone} --weights {shlex.quote(folder)}")
    write_stdout(os.fsencode(f"{folder}\n"))
    return DONE
