"""What ranks compare before any work: that they were started with the same options, and see the same images."""

from __future__ import annotations

from typing import Any

from tlkit.data.folder import Dataset
from tlkit.data.image_file import ImageError, open_regular
from tlkit.data.same_content import likeness
from tlkit.declarations import Options, flag_of
from tlkit.distributed import World
from tlkit.errors import MismatchError

OWN = ("checkpoint", "data", "model", "weights", "val", "out", "workers", "device", "processes", "cache_limit")
"""Options that may be others on each rank: where things lie on its machine, and how it works there. The weights are
compared by their content."""


def require_same_options(options: Options, world: World) -> None:
    """Raises MismatchError at the first rank, for which the others wait, if some were started with other options."""
    compared = {name: value for name, value in options.to_dict().items() if name not in OWN}
    everywhere = world.gather({"place": str(world.place), "options": compared})
    first = everywhere[0]["options"]
    differences = [
        f"  {flag_of(name)}: {described(there['options'].get(name))} at {there['place']}, {described(value)} at rank 0"
        for there in everywhere
        for name, value in first.items()
        if there["options"].get(name) != value
    ]
    settle("options", "are not the same on all ranks", differences, "Start every rank with the same ones.", world)


def require_same_files(dataset: Dataset, world: World) -> None:
    """Raises MismatchError at the first rank if another machine has other images: by their length and their end."""
    if world.place.nodes == 1:
        return
    samples, looks = dataset.train + dataset.val, world.place.local_rank == 0
    mine = [likeness_of(sample.path) for sample in samples] if looks else []
    first = world.share(mine)
    pairs = zip(samples, mine, first, strict=True) if looks else ()
    others = [sample.path for sample, here, there in pairs if here != there]
    everywhere = world.gather({"place": str(world.place), "count": len(others), "file": "".join(others[:1])})
    differences = [
        f"  {there['count']} of {len(first)} are missing or others at {there['place']}: {there['file']}"
        for there in everywhere
        if there["count"]
    ]
    settle(dataset.root, "holds other images on another machine", differences, "Copy them there again.", world)


def likeness_of(path: str) -> int | None:
    """The same for the same files; None if there is none."""
    try:
        with open_regular(path) as file:
            return likeness(file)
    except (ImageError, OSError):
        return None


def settle(subject: str, problem: str, differences: list[str], advice: str, world: World) -> None:
    """The first rank says what is wrong, if something is; the others wait until it has looked."""
    if world.is_first and differences:
        listing = "\n".join(differences[:10])
        raise MismatchError(subject, problem, f"{listing}\n{advice}")
    world.meet()


def described(value: Any) -> str:
    """An option's value, for people."""
    return "nothing" if value is None else str(value)
