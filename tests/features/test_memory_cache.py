"""What a process keeps of vectors from one run to the next."""

from __future__ import annotations

import torch

from tlkit.features.memory_cache import NO_MEMORY, FeatureMemory


def test_what_was_found_is_not_looked_for_again_and_the_oldest_make_room() -> None:
    memory, sought = FeatureMemory(most_bytes=80), list[str]()

    def find(key: str, is_whole: bool = True) -> torch.Tensor:
        def look() -> tuple[torch.Tensor, bool]:
            sought.append(key)
            return torch.full((1, 10), float(len(key))), is_whole

        return memory.recall("space", [key], look)

    assert find("a").equal(find("a")) and sought == ["a"]
    find("bb")
    find("a")
    find("ccc")  # "bb" has been used longest ago, and must go
    find("a")
    assert sought == ["a", "bb", "ccc"]
    find("bb")
    assert sought == ["a", "bb", "ccc", "bb"]
    find("dddd", is_whole=False)
    find("dddd", is_whole=False)
    assert sought[-2:] == ["dddd", "dddd"]


def test_a_run_by_itself_keeps_nothing() -> None:
    empty = torch.empty(0)  # what a rank has that is not the first, and that must take part all the same
    for _ in range(2):
        assert NO_MEMORY.recall("space", [], lambda: (empty, True)) is empty
    NO_MEMORY.recall("space", ["a"], lambda: (torch.ones(1, 10), True))
    assert not NO_MEMORY.kept


def test_the_images_of_a_fold_are_taken_from_the_sets_that_are_kept() -> None:
    memory = FeatureMemory()
    train, val = torch.arange(6.0).reshape(3, 2), torch.arange(6.0, 10.0).reshape(2, 2)
    memory.recall("space", ["a", "b", "c"], lambda: (train, True))
    memory.recall("space", ["d", "e"], lambda: (val, True))

    def never() -> tuple[torch.Tensor, bool]:
        raise AssertionError("all of these are known")

    assert memory.recall("space", ["e", "a", "c"], never).equal(torch.stack([val[1], train[0], train[2]]))
    assert len(memory.kept) == 2  # no copy
    other = torch.ones(2, 2)
    assert memory.recall("space", ["a", "f"], lambda: (other, False)) is other
    assert memory.recall("other view", ["a", "b"], lambda: (other, False)) is other
