"""What a process that trains one trial after another keeps of its images, which stay as they are meanwhile."""

from __future__ import annotations

import dataclasses

from tlkit.commands.image_check import check_images
from tlkit.commands.survey import find_dataset
from tlkit.commands.vector_memory import VectorMemory, share_of_memory
from tlkit.data.folder import Dataset
from tlkit.options import FinetuneOptions
from tlkit.options.data import DataOptions

vectors = VectorMemory(share_of_memory())

datasets: dict[tuple[object, ...], Dataset] = {}


def dataset_of(options: FinetuneOptions) -> Dataset:
    """The images that a trial is to train on, looked at once. Raises as `find_dataset` and `check_images` do."""
    key = tuple(getattr(options, field.name) for field in dataclasses.fields(DataOptions))
    if key not in datasets:
        datasets.clear()
        datasets[key] = check_images(options, find_dataset(options))
    return datasets[key]
