"""Plan: what a run trains, as rank 0 decides it and sends it to the other ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tlkit.data.decoders import worker_count
from tlkit.data.digests import hex_digests
from tlkit.data.folder import Dataset
from tlkit.data.image_file import ImageError
from tlkit.distributed.world import World
from tlkit.errors import MismatchError
from tlkit.files.artifact import digest
from tlkit.options import FinetuneOptions
from tlkit.runs.checkpoints import Checkpoint
from tlkit.terminal import count


@dataclass(frozen=True)
class Plan:
    """Resolved options, images, and the checkpoint to start from; None for a new run."""

    options: FinetuneOptions
    dataset: Dataset
    checkpoint: Checkpoint | None = None


def broadcast_plan(plan: Plan | None, world: World) -> None:
    """On rank 0: send the plan to the other ranks, which need no access to the run folder. None: nothing is left to
    train."""
    if world.size == 1:
        return
    checkpoint = plan.checkpoint if plan is not None else None
    world.broadcast_object(
        plan
        and {
            "options": plan.options.to_dict(),
            "split": plan.dataset.to_split(),
            "skipped": [[error.path, error.code, error.message] for error in plan.dataset.skipped],
            "checkpoint": checkpoint and checkpoint.path,
        }
    )
    if checkpoint is not None:
        world.broadcast_tensors(checkpoint.to_dict())


def receive_plan(local_options: Mapping[str, Any], world: World) -> Plan | None:
    """On other ranks: the plan of rank 0; None if nothing is left to train.

    local_options: options whose value is another on this machine, such as --data.
    """
    plan = world.broadcast_object(None)
    if plan is None:
        return None
    path = plan["checkpoint"]
    checkpoint = Checkpoint.from_dict(path, world.broadcast_tensors(None)) if path is not None else None
    options = dataclasses.replace(FinetuneOptions.from_dict(plan["options"]), **local_options)
    skipped = tuple(ImageError(*fields) for fields in plan["skipped"])
    dataset = dataclasses.replace(Dataset.from_split(plan["split"], options.image_root(options.data)), skipped=skipped)
    return Plan(options, dataset, checkpoint)


def split_digest(dataset: Dataset) -> str:
    """A checksum of which images are in train and val."""
    return digest(dataset.to_split())


def require_same_images(dataset: Dataset, checkpoint: Checkpoint, skipped: Sequence[ImageError] = ()) -> None:
    """Raises MismatchError unless a checkpoint was trained on the same split of the same images.

    skipped: images that have been found unreadable since it was written.
    """
    if split_digest(dataset) != checkpoint.split_sha256:
        example = f" ({skipped[-1].path}: {skipped[-1].message})" if skipped else ""
        raise MismatchError(
            dataset.root,
            f"its images differ from those of the checkpoint: some were added, removed, renamed or damaged{example}",
            "Restore them, or start a new run with: tlkit finetune DATA",
        )


def content_digests(dataset: Dataset) -> dict[str, str]:
    """The content digests of the images that can be read, by their names in split.json, in the order of names."""
    samples = dataset.images
    found = zip(dataset.names_of(samples), hex_digests(samples, worker_count(None)), strict=True)
    return dict(sorted((name, content) for name, content in found if content is not None))


def require_same_content(dataset: Dataset, checkpoint: Checkpoint, command: str) -> None:
    """Raises MismatchError if images have other content than when the checkpoint was written.

    Missing and unreadable images are reported where they are needed. command: trains on with the images as they are.
    """
    if checkpoint.data_sha256 is None or split_digest(dataset) != checkpoint.split_sha256:
        return
    found = content_digests(dataset)
    changed = [name for name, content in found.items() if dataset.digests.get(name, content) != content]
    whole = len(found) == len(dataset.images)
    if changed or (whole and digest(found) != checkpoint.data_sha256):
        raise MismatchError(
            dataset.root,
            f"{count(len(changed), 'image') if changed else 'images'} changed since the checkpoint was written",
            f"Restore the images, or start a new run from the checkpoint with them as they are: {command}",
            changed,
        )
