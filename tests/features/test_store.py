"""The feature store: what was written is found, what is damaged is not believed, and nothing that fails ends a run."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tlkit.errors import StorageError
from tlkit.features import store as store_module
from tlkit.features.cache import cache_root, clear, list_feature_sets, make_room, summarize
from tlkit.features.cache_files import GRAPH_FILE
from tlkit.features.onnx_graphs import find_graph, keep_graph
from tlkit.features.segments import Lookup, Segment
from tlkit.features.store import FeatureStore, NoStore, feature_key, open_store
from tlkit.files.checksum import DIGITS
from tlkit.files.description import metadata_of

SPACE = {"backbone": "timm/test_resnet", "precision": "fp32"}
LIMIT = 10**9


def key(number: int) -> bytes:
    return feature_key(number.to_bytes(32, "little"))


def vectors(numbers: range) -> np.ndarray:
    """[n, 3], each row a function of its number."""
    return np.array([[number, number + 0.5, -number] for number in numbers], np.float32)


def open_space(root: Path, warnings: list[str] | None = None, limit: int = LIMIT) -> FeatureStore:
    return FeatureStore(str(root), SPACE, limit, (warnings if warnings is not None else []).append)


def fill(root: Path, numbers: range, batch: int = 4) -> None:
    store = open_space(root)
    for start in range(numbers.start, numbers.stop, batch):
        part = range(start, min(start + batch, numbers.stop))
        store.write([key(number) for number in part], vectors(part))
    store.close()


def assert_holds(store: FeatureStore, numbers: range) -> None:
    for number in numbers:
        found = store.read(key(number))
        assert key(number) in store and found is not None
        np.testing.assert_array_equal(found, vectors(range(number, number + 1))[0])


def segments(root: Path) -> list[Path]:
    return sorted(root.rglob("*.segment"))


def test_what_one_run_wrote_another_reads(tmp_path: Path) -> None:
    fill(tmp_path, range(10))
    store = open_space(tmp_path)
    assert_holds(store, range(10))
    assert key(10) not in store and store.read(key(10)) is None


def test_vectors_with_positions_keep_their_shape(tmp_path: Path) -> None:
    store = open_space(tmp_path)
    maps = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    store.write([key(0), key(1)], maps)
    store.close()
    np.testing.assert_array_equal(open_space(tmp_path).read(key(1)), maps[1])


def test_spaces_do_not_see_each_other(tmp_path: Path) -> None:
    fill(tmp_path, range(3))
    other = FeatureStore(str(tmp_path), {**SPACE, "precision": "bf16"}, LIMIT, print)
    assert key(0) not in other


def test_views_of_an_image_have_keys_of_their_own() -> None:
    digest = bytes(32)
    assert len({feature_key(digest), feature_key(digest, "light 0 1"), feature_key(digest, "light 0 2")}) == 3


def test_a_lookup_tells_keys_with_equal_beginnings_apart(tmp_path: Path) -> None:
    store = open_space(tmp_path)
    same = [b"8 bytes." + bytes([number] * 8) for number in range(3)]
    store.write(same[:2], vectors(range(2)))
    store.close()
    assert [found in store for found in same] == [True, True, False]
    np.testing.assert_array_equal(store.read(same[1]), vectors(range(1, 2))[0])


@pytest.mark.parametrize("offset", range(0, 700, 7))
def test_a_flipped_byte_is_never_believed(offset: int, tmp_path: Path) -> None:
    fill(tmp_path, range(10))
    (path,) = segments(tmp_path)
    content = bytearray(path.read_bytes())
    content[offset % len(content)] ^= 0x10
    path.write_bytes(content)
    store = open_space(tmp_path)
    for number in range(10):
        found = store.read(key(number))
        assert found is None or (found == vectors(range(number, number + 1))[0]).all()


def test_a_damaged_row_is_said_once_and_can_be_written_again(tmp_path: Path) -> None:
    fill(tmp_path, range(10))
    (path,) = segments(tmp_path)
    content = bytearray(path.read_bytes())
    content[-DIGITS - 1] ^= 1  # in the last row
    path.write_bytes(content)
    warnings: list[str] = []
    store = open_space(tmp_path, warnings)
    assert store.read(key(9)) is None and store.read(key(9)) is None
    assert len(warnings) == 1 and "damaged" in warnings[0]
    assert_holds(store, range(9))
    store.write([key(9)], vectors(range(9, 10)))
    store.close()
    assert_holds(open_space(tmp_path, warnings), range(10))
    assert len(warnings) == 1


@pytest.mark.parametrize("size", [0, 1, 60, 130, -1])
def test_a_file_that_was_cut_short_is_rebuilt(size: int, tmp_path: Path) -> None:
    fill(tmp_path, range(10))
    (path,) = segments(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    warnings: list[str] = []
    store = open_space(tmp_path, warnings)
    assert key(0) not in store and len(warnings) == 1
    fill(tmp_path, range(10))
    assert_holds(open_space(tmp_path), range(10))


def test_a_file_cut_short_while_it_is_open(tmp_path: Path) -> None:
    fill(tmp_path, range(10))
    store = open_space(tmp_path)
    (path,) = segments(tmp_path)
    os.truncate(path, path.stat().st_size - DIGITS - 1)
    assert_holds(store, range(9))
    assert store.read(key(9)) is None


def test_what_waits_is_written_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SEGMENT_SECONDS", 0.0)
    store = open_space(tmp_path)
    store.write([key(0), key(1)], vectors(range(2)))
    assert_holds(open_space(tmp_path), range(2))


def test_many_small_segments_are_joined_and_nothing_is_lost(tmp_path: Path) -> None:
    reader = open_space(tmp_path)
    for number in range(store_module.SMALL_SEGMENTS + 5):
        fill(tmp_path, range(number, number + 1))
        if number == 3:
            reader.find_segments()
    assert len(segments(tmp_path)) < 10
    assert_holds(open_space(tmp_path), range(store_module.SMALL_SEGMENTS + 5))
    assert_holds(reader, range(4))  # the files it knew are gone


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from tests.features.test_store import fill\n"
        "for _ in range(10): fill(pathlib.Path(sys.argv[1]), range(int(sys.argv[2]), int(sys.argv[2]) + 60))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(start)]) for start in (0, 30, 60)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert_holds(open_space(tmp_path), range(120))


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    for start in (0, 10, 20):
        fill(tmp_path, range(start, start + 10))
    for age, path in enumerate(segments(tmp_path)):
        os.utime(path, (1000 + age, 1000 + age))
    assert_holds(open_space(tmp_path), range(10))  # the oldest is used now
    size = segments(tmp_path)[0].stat().st_size
    assert make_room(str(tmp_path), 2 * size, keep=())
    store = open_space(tmp_path)
    assert [key(number) in store for number in (0, 10, 20)] == [True, False, True]


def test_a_run_that_alone_exceeds_the_limit_says_so_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SEGMENT_SECONDS", 0.0)
    warnings: list[str] = []
    store = open_space(tmp_path, warnings, limit=700)
    for number in range(0, 40, 4):
        store.write([key(n) for n in range(number, number + 4)], vectors(range(number, number + 4)))
    store.close()
    assert len(warnings) == 1 and "--cache-limit" in warnings[0]
    assert sum(path.stat().st_size for path in segments(tmp_path)) <= 700 + 300
    assert_holds(open_space(tmp_path), range(4))


def test_a_disk_that_fills_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, *_: object) -> None:
        raise StorageError(path, f"cannot be written: {os.strerror(errno.ENOSPC)}")

    warnings: list[str] = []
    store = open_space(tmp_path, warnings)
    monkeypatch.setattr(store_module, "write_atomically", full)
    monkeypatch.setattr(store_module, "SEGMENT_SECONDS", 0.0)
    for number in range(3):
        store.write([key(number)], vectors(range(number, number + 1)))
    store.close()
    assert len(warnings) == 1 and "No space left" in warnings[0]


def test_a_cache_folder_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "file"))
    warnings: list[str] = []
    assert isinstance(open_store(SPACE, LIMIT, warnings.append), NoStore)
    assert len(warnings) == 1 and "not cached" in warnings[0]


def test_a_summary_counts_and_clearing_leaves_what_is_not_ours(tmp_path: Path) -> None:
    root = tmp_path / "features-1"
    fill(root, range(10))
    (tmp_path / "features-0").mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    (space,) = map(summarize, list_feature_sets(str(root)))
    assert (space.features, space.description["backbone"]) == (10, "timm/test_resnet")
    assert space.size == segments(tmp_path)[0].stat().st_size
    assert clear(str(tmp_path))[0] >= space.size
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_an_empty_lookup_finds_nothing() -> None:
    assert Lookup.over([]).find(key(0)) is None


def test_a_segment_of_other_types_is_damaged(tmp_path: Path) -> None:
    with open(tmp_path / "odd", "wb") as file:
        np.lib.format.write_array(file, np.zeros(3), version=(1, 0))
        np.lib.format.write_array(file, np.zeros((3, 2)), version=(1, 0))
    with pytest.raises(ValueError, match="unexpected content"):
        Segment.read(str(tmp_path / "odd"))


def test_a_graph_makes_room_and_goes_like_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path))
    root = Path(cache_root())
    fill(root, range(4))
    (segment,) = root.rglob("*.segment")
    os.utime(segment, (1, 1))
    metadata = onnx_model(metadata_of(SPACE))
    keep_graph(SPACE, metadata, limit=9 * len(metadata))
    assert find_graph(SPACE) is None and segment.exists(), "it would take too large a part of the limit"
    keep_graph(SPACE, metadata, LIMIT)
    assert segment.exists()
    kept = find_graph(SPACE)
    assert kept is not None and kept.description == SPACE
    os.utime(segment.parent / GRAPH_FILE, (1, 1))
    assert find_graph(SPACE) and os.stat(segment.parent / GRAPH_FILE).st_mtime > 1, "it has just been used"
    assert make_room(str(root), 0, keep=()) and find_graph(SPACE) is None


def onnx_model(metadata: Mapping[str, str]) -> bytes:
    """An ONNX model of nothing but metadata."""
    entries = [(k.encode(), v.encode()) for k, v in metadata.items()]
    fields = [b"\x0a" + bytes([len(k)]) + k + b"\x12" + bytes([len(v)]) + v for k, v in entries]
    return b"".join(b"\x72" + bytes([len(field)]) + field for field in fields)
