"""Checks before training: all ranks use the same options, images and libraries; a checkpoint is of the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tlkit.data.duplicates import quick_hash
from tlkit.data.folder import Sample
from tlkit.data.image_file import ImageError
from tlkit.distributed.world import World
from tlkit.errors import MismatchError
from tlkit.options.declare import Options, flag_of

LOCAL_OPTIONS = (
    "checkpoint",
    "data",
    "root",
    "model",
    "weights",
    "out",
    "workers",
    "device",
    "processes",
    "cache_limit",
)
"""Options that may differ between ranks: paths and devices of their machines. Weights are compared by content."""


def require_same_options(options: Options, world: World) -> None:
    """Raises MismatchError on rank 0, for which the others wait, if ranks were started with different options."""
    compared = {flag_of(name): value for name, value in options.to_dict().items() if name not in LOCAL_OPTIONS}
    advice = "Start every process with the same options."
    raise_on_rank_zero("options", "differ between processes", differences(compared, world), advice, world)


def require_same_environment(environment: Mapping[str, str | None], world: World) -> None:
    """Raises MismatchError as above if ranks compute with different devices, libraries or weights.

    environment: values by their names in messages.
    """
    advice = "Use one kind of device (for example --device cpu), the same versions, and the same weights everywhere."
    problem = "use different devices, libraries or weights"
    raise_on_rank_zero("processes", problem, differences(environment, world), advice, world)


def differences(own: Mapping[str, object], world: World) -> list[str]:
    """A line for each value of another rank that differs from that of rank 0."""
    everywhere = world.all_gather_object((str(world.place), dict(own)))
    return [
        f"{name}: {option_text(values.get(name))} at {place}, {option_text(value)} at rank 0"
        for place, values in everywhere
        for name, value in everywhere[0][1].items()
        if values.get(name) != value
    ]


def require_same_files(root: str, samples: Sequence[Sample], world: World) -> None:
    """Raises MismatchError on rank 0 if another machine has other images; files are compared by length and last
    bytes."""
    if world.place.nodes == 1:
        return
    compares = world.place.local_rank == 0
    own = [quick_hash_of(sample) for sample in samples] if compares else []
    expected = world.broadcast_object(own)
    pairs = zip(samples, own, expected, strict=True) if compares else ()
    wrong = [sample.path for sample, here, there in pairs if here != there]
    everywhere = world.all_gather_object((str(world.place), len(wrong), "".join(wrong[:1])))
    found = [
        f"{number} of {len(expected)} are missing or different at {place}, such as {file}"
        for place, number, file in everywhere
        if number
    ]
    raise_on_rank_zero(root, "has different images on another machine", found, "Copy the folder there again.", world)


def quick_hash_of(sample: Sample) -> int | None:
    """Equal for equal files; None for a file that is missing or cannot be read."""
    try:
        with sample.open() as file:
            return quick_hash(file)
    except (ImageError, OSError):
        return None


def raise_on_rank_zero(subject: str, problem: str, found: list[str], advice: str, world: World) -> None:
    """Raise MismatchError on rank 0 if anything was found; the other ranks wait until it has decided."""
    if world.is_first and found:
        raise MismatchError(subject, problem, advice, found)
    world.barrier()


def option_text(value: object) -> str:
    """An option's value in messages."""
    return "not set" if value is None else ",".join(value) if isinstance(value, list) else str(value)
