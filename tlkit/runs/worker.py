"""What a rank does that does not come first: its share of the work, as the first one orders it. It writes nothing."""

from __future__ import annotations

import dataclasses
import os
from contextlib import closing
from typing import Any

from tlkit import interruption
from tlkit.data.folder import Dataset
from tlkit.data.image_file import ImageError
from tlkit.distributed.join import joined
from tlkit.errors import DONE
from tlkit.options import FinetuneOptions, ResumeOptions
from tlkit.options.network import is_weights_file
from tlkit.runs.batches import BatchBuilder
from tlkit.runs.consistency import require_same_files, require_same_options
from tlkit.runs.setup import build, load_state
from tlkit.runs.train_loop import train_along


def run_worker(options: FinetuneOptions | ResumeOptions) -> int:
    """Take part in a run that the first rank begins, or goes on with. Returns the exit status."""
    with interruption.handled() as signals, joined(options) as world:
        require_same_options(options, world)
        order = world.broadcast_object(None)
        if order is None:  # nothing is left to do
            return DONE
        checkpoint = world.broadcast_tensors(None) if order["resumed"] else None
        ordered = with_local_paths(FinetuneOptions.from_dict(order["options"]), options)
        dataset = planned_dataset(order, ordered.data)
        require_same_files(dataset.root, dataset.train + dataset.val, world)
        built = build(ordered, dataset, checkpoint, world, ordered.data)
        if checkpoint is not None:
            load_state(built.state, checkpoint, ordered.data)
        fresh = checkpoint is None
        preparation = BatchBuilder(
            built.options, dataset, built.classifier, built.description, built.devices, fresh, signals, world
        )
        with closing(preparation):
            images = preparation.batches()
            if ordered.feeds_images():
                train_along(built.options, images, built.state, built.devices.first, signals)
    return DONE


def with_local_paths(ordered: FinetuneOptions, own: FinetuneOptions | ResumeOptions) -> FinetuneOptions:
    """The run's options with what this machine has elsewhere: images, weights, device, workers."""
    here = {name: getattr(own, name) for name in ("data", "weights", "device", "workers", "trust_pickle")}
    here = {name: value for name, value in here.items() if value is not None}
    is_file = is_weights_file(here.get("weights", "pretrained"))
    paths = {name: os.path.abspath(here[name]) for name in ("data", *(["weights"] if is_file else [])) if name in here}
    return dataclasses.replace(ordered, **{**here, **paths})


def planned_dataset(order: dict[str, Any], root: str) -> Dataset:
    """The images that the first rank found, where they lie here."""
    dataset = Dataset.from_split(order["split"], root)
    return dataclasses.replace(dataset, skipped=tuple(ImageError(*about) for about in order["skipped"]))
