"""A cache folder that others write to: nothing hangs, no link is followed, and what is not this user's stays."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Run, finetune_arguments
from tests.features.test_store import LIMIT, SPACE, key, onnx_model, vectors
from tests.shared_cache import KINDS, PLACES, contents, problem_of, spoil, time_limit
from tlkit.features.cache import cache_root, list_feature_sets, make_room, summarize
from tlkit.features.onnx_graphs import find_graph, keep_graph
from tlkit.features.segments import LARGEST_INDEX, Segment
from tlkit.features.store import open_store
from tlkit.files.checksum import DIGITS
from tlkit.files.description import metadata_of


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one of each file that it can contain."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TLKIT_CACHE", str(folder))
    use()
    (space,) = map(Path, list_feature_sets(cache_root()))
    (space / ".x.1.tlkit-tmp").write_text("left by a killed process")
    os.utime(space / ".x.1.tlkit-tmp", (1, 1))
    return folder


def use() -> int:
    """Everything that a run does with the cache. Returns 0, as a command that succeeds."""
    warnings: list[str] = []
    store = open_store(SPACE, LIMIT, warnings.append)
    for number in range(4):
        found = store.read(key(number))
        assert found is None or (found == vectors(range(number, number + 1))[0]).all()
    store.write([key(number) for number in range(4)], vectors(range(4)))
    store.close()
    assert len(warnings) <= 1, warnings
    kept = find_graph(SPACE)
    assert kept is None or kept.description == SPACE
    if kept is None:
        keep_graph(SPACE, onnx_model(metadata_of(SPACE)), LIMIT)
    return 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_whatever_is_in_place_of_a_file(place: str, kind: str, cache: Path, tmp_path: Path, tlkit: Run) -> None:
    outside = tmp_path / "outside"
    spoil(cache, place, kind, outside)
    commands = {
        "cache": lambda: tlkit("cache").status,
        "use": use,
        "evict": lambda: int(make_room(cache_root(), 0, keep=()) is None),
        "clear": lambda: tlkit("cache", "--clear").status,
    }
    assert {
        name: problem for name, command in commands.items() if (problem := problem_of(cache, outside, command))
    } == {}


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "empty"])
def test_what_is_no_file_of_features_is_computed_again(kind: str, cache: Path, tmp_path: Path) -> None:
    spoil(cache, "segment", kind, tmp_path / "outside")
    use()
    store = open_store(SPACE, LIMIT, pytest.fail)
    assert [key(number) in store for number in range(4)] == [True] * 4


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_features_of_another_user_are_read_and_not_counted(cache: Path, tmp_path: Path, tlkit: Run) -> None:
    spoil(cache, "segment", "other user", tmp_path / "outside")
    store = open_store(SPACE, LIMIT, pytest.fail)
    np.testing.assert_array_equal(store.read(key(3)), vectors(range(3, 4))[0])
    assert make_room(cache_root(), 0, keep=())
    assert len(list(cache.rglob("*.segment"))) == 1 and not list(cache.rglob("graph.onnx"))
    cleared = tlkit("cache", "--clear")
    assert cleared.status == 0 and "1 file of other users kept" in cleared.err
    (folder,) = list_feature_sets(cache_root())
    assert summarize(folder).features == 4
    content = bytearray(next(cache.rglob("*.segment")).read_bytes())
    content[-DIGITS - 1] ^= 1
    next(cache.rglob("*.segment")).write_bytes(content)
    damaged = contents(cache, only_other_users=True)
    use()
    assert contents(cache, only_other_users=True) == damaged


def test_a_linked_feature_set_is_not_used_and_says_so(cache: Path, tmp_path: Path) -> None:
    spoil(cache, "feature set", "link", tmp_path / "outside")
    warnings: list[str] = []
    open_store(SPACE, LIMIT, warnings.append)
    assert len(warnings) == 1 and "is a symbolic link" in warnings[0] and "not cached" in warnings[0]


def test_the_cache_folder_itself_may_be_a_link(cache: Path, tmp_path: Path) -> None:
    cache.rename(tmp_path / "disk")
    cache.symlink_to(tmp_path / "disk")
    assert key(0) in open_store(SPACE, LIMIT, pytest.fail)


def test_a_graph_of_another_backbone_is_not_used(cache: Path) -> None:
    keep_graph({**SPACE, "backbone": "timm/other"}, onnx_model(metadata_of({**SPACE, "backbone": "timm/other"})), LIMIT)
    own, other = (Path(folder) / "graph.onnx" for folder in list_feature_sets(cache_root()))
    shutil.copy(other, own)
    shutil.copy(own, other)
    assert [find_graph(SPACE), find_graph({**SPACE, "backbone": "timm/other"})].count(None) == 1


def test_a_segment_that_claims_a_huge_index_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.segment"
    with open(path, "wb") as file:
        header = {
            "descr": Segment.write.__doc__ and [("key", "|u1", (16,)), ("checksum", "<u4")],
            "fortran_order": False,
        }
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (LARGEST_INDEX,)})
    os.truncate(path, 1 << 40)
    with time_limit(10), pytest.raises(ValueError, match="unexpected content"):
        Segment.read(str(path))


def test_a_run_with_strange_things_in_its_cache_is_as_without(
    images: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("TLKIT_CACHE", str(cache))
    assert tlkit(*finetune_arguments(images, tmp_path / "first")).status == 0
    segment, *_ = cache.rglob("*.segment")  # several on a busy machine
    for number, kind in enumerate(KINDS):
        path, outside = segment.with_name(f"{number:x}.segment"), tmp_path / f"outside {number}"
        outside.mkdir()
        shutil.copy(segment, path)
        KINDS[kind](path, outside)
    with time_limit(60):
        result = tlkit(*finetune_arguments(images, tmp_path / "second"))
        assert result.status == 0 and "30 cached" in result.err
        assert tlkit("doctor").status == 0
    first, second = ((tmp_path / run / "validation.jsonl").read_bytes() for run in ("first", "second"))
    assert first == second
