"""What a process keeps of vectors from one run to the next."""

from __future__ import annotations

import torch

from tlkit.commands.vector_memory import NO_MEMORY, VectorMemory


def test_what_was_found_is_not_looked_for_again_and_the_oldest_make_room() -> None:
    memory, sought = VectorMemory(most_bytes=80), list[str]()

    def find(key: str, is_whole: bool = True) -> torch.Tensor:
        def look() -> tuple[torch.Tensor, bool]:
            sought.append(key)
            return torch.full((10,), float(len(key))), is_whole

        return memory.recall(key, look)

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
    NO_MEMORY.recall("a", lambda: (torch.ones(10), True))
    assert not NO_MEMORY.kept
