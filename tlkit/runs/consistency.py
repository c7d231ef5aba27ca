"""What ranks compare before any work: their options, their images, and what they compute with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tlkit.data.duplicates import quick_hash
from tlkit.data.folder import Sample
from tlkit.data.image_file import ImageError
from tlkit.distributed.world import World
from tlkit.errors import MismatchError
from tlkit.options.declare import Options, flag_of

OWN = ("checkpoint", "data", "model", "weights", "out", "workers", "device", "processes", "cache_limit")
"""Options that may be others on each rank: where things lie on its machine, and how it works there. The weights are
compared by their content."""


def require_same_options(options: Options, world: World) -> None:
    """Raises MismatchError at the first rank, for which the others wait, if some were started with other options."""
    compared = {flag_of(name): value for name, value in options.to_dict().items() if name not in OWN}
    advice = "Start every rank with the same ones."
    raise_on_rank_zero("options", "are not the same on all ranks", differences(compared, world), advice, world)


def require_same_environment(ground: Mapping[str, str | None], world: World) -> None:
    """Raises MismatchError as above if what some compute on, or with, is not the same: what is computed would be a
    mixture, and be kept as if it were none. ground: by its names for people."""
    advice = "Give them devices of one kind, as by --device cpu, the same versions, and the same files."
    raise_on_rank_zero("ranks", "do not all compute alike", differences(ground, world), advice, world)


def differences(mine: Mapping[str, Any], world: World) -> list[str]:
    """What other ranks have otherwise than the first, a line for each."""
    everywhere = world.all_gather_object({"place": str(world.place), "values": dict(mine)})
    return [
        f"  {name}: {option_text(there['values'].get(name))} at {there['place']}, {option_text(value)} at rank 0"
        for there in everywhere
        for name, value in everywhere[0]["values"].items()
        if there["values"].get(name) != value
    ]


def require_same_files(root: str, samples: Sequence[Sample], world: World) -> None:
    """Raises MismatchError at the first rank if another machine has other images: by their length and their end."""
    if world.place.nodes == 1:
        return
    looks = world.place.local_rank == 0
    mine = [quick_hash_of(sample) for sample in samples] if looks else []
    first = world.broadcast_object(mine)
    pairs = zip(samples, mine, first, strict=True) if looks else ()
    others = [sample.path for sample, here, there in pairs if here != there]
    everywhere = world.all_gather_object({"place": str(world.place), "count": len(others), "file": "".join(others[:1])})
    missing = [
        f"  {there['count']} of {len(first)} are missing or others at {there['place']}: {there['file']}"
        for there in everywhere
        if there["count"]
    ]
    raise_on_rank_zero(root, "holds other images on another machine", missing, "Copy them there again.", world)


def quick_hash_of(sample: Sample) -> int | None:
    """The same for the same files; None if there is none."""
    try:
        with sample.open() as file:
            return quick_hash(file)
    except (ImageError, OSError):
        return None


def raise_on_rank_zero(subject: str, problem: str, found: list[str], advice: str, world: World) -> None:
    """The first rank says what is wrong, if something is; the others wait until it has looked."""
    if world.is_first and found:
        listing = "\n".join(found[:10])
        raise MismatchError(subject, problem, f"{listing}\n{advice}")
    world.barrier()


def option_text(value: Any) -> str:
    """An option's value, for people."""
    return "nothing" if value is None else str(value)
