"""Ranks exchange errors of images at different local paths, and compare their environments."""

from __future__ import annotations

from tests.ranked import in_threads
from tlkit.data.folder import Sample
from tlkit.data.image_file import ImageError
from tlkit.data.scan import errors_of_all
from tlkit.distributed.world import World
from tlkit.errors import MismatchError
from tlkit.runs.consistency import require_same_environment


def test_what_another_rank_found_is_named_as_it_lies_here() -> None:
    def look(world: World) -> list[ImageError]:
        root = ("images", "/elsewhere", "/third")[world.rank]
        samples = [Sample(f"{root}/{number}.png", 0) for number in range(12)]
        mine = {0: [7], 1: [10, 3], 2: []}[world.rank]
        errors = [(number, ImageError(samples[number].path, "image_corrupt", f"bad {number}")) for number in mine]
        return errors_of_all(errors, samples, world)

    for root, found in zip(("images", "/elsewhere", "/third"), in_threads(3, look), strict=True):
        assert [(e.path, e.code, e.message) for e in found] == [
            (f"{root}/{number}.png", "image_corrupt", f"bad {number}") for number in (3, 7, 10)
        ]


def test_ranks_that_compute_on_other_devices_are_refused_by_the_first() -> None:
    def compare(world: World) -> str:
        try:
            require_same_environment({"device": "cpu" if world.rank else "cuda", "torch": "2.9"}, world)
        except MismatchError as error:
            return "\n".join([error.problem, *error.listed, error.hint])
        return ""

    first, *others = in_threads(2, compare)
    assert first.startswith(
        "use different devices, libraries or weights\ndevice: cpu at rank 1, cuda at rank 0\n"
    ) and others == [""]
    assert in_threads(2, lambda world: require_same_environment({"torch": "2.9"}, world)) == [None, None]


def test_one_process_has_nobody_to_differ_from() -> None:
    require_same_environment({"device": "cpu"}, World())
    [error] = errors_of_all([(1, ImageError("b", "image_corrupt", "bad"))], [Sample("a", 0), Sample("b", 1)], World())
    assert (error.path, error.message) == ("b", "bad")
