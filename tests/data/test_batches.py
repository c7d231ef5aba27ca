"""Order, look-ahead and batches: functions of (seed, epoch), whatever the number of workers."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
import torch

from tests.ranked import Thread
from tlkit.data.batches import EpochSteps, FeatureBatches, ImageBatches, epoch_order
from tlkit.data.normalize import normalize
from tlkit.data.ordered_map import map_in_order
from tlkit.data.preprocessing import Preprocessing

PREPROCESSING = Preprocessing((4, 6), (4, 6), "center", "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
COUNT = 23


def vector_batches(seed: int | None = 1) -> FeatureBatches:
    return FeatureBatches([torch.arange(COUNT)[:, None].float()], torch.arange(COUNT), batch_size=5, seed=seed)


def image_of(index: int, epoch: int) -> np.ndarray:
    return np.full((4, 6, 3), 10 * epoch + index, dtype=np.uint8)


def image_batches(workers: int, seed: int | None = 1) -> ImageBatches:
    return ImageBatches(image_of, torch.arange(COUNT), PREPROCESSING, batch_size=5, seed=seed, workers=workers)


def test_an_epoch_shows_every_sample_once() -> None:
    labels = [batch.tolist() for _, batch, *_ in vector_batches().epoch(1)]
    assert [len(batch) for batch in labels] == [5, 5, 5, 5, 3]
    assert sorted(itertools.chain(*labels)) == list(range(COUNT))
    assert vector_batches().steps_per_epoch == 5 == image_batches(0).steps_per_epoch


def test_vectors_stay_with_their_labels() -> None:
    for vectors, labels, *_ in vector_batches().epoch(1):
        assert torch.equal(vectors[:, 0].long(), labels)


def test_order_depends_on_seed_and_epoch_and_nothing_else() -> None:
    torch.manual_seed(1)
    first = epoch_order(100, seed=3, epoch=2)
    torch.manual_seed(2)
    assert torch.equal(first, epoch_order(100, seed=3, epoch=2))
    assert not torch.equal(first, epoch_order(100, seed=4, epoch=2))
    assert not torch.equal(first, epoch_order(100, seed=3, epoch=3))


def test_drawing_an_order_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    epoch_order(100, seed=3, epoch=2)
    assert torch.equal(before, torch.get_rng_state())


def test_without_a_seed_the_order_is_that_of_the_data() -> None:
    assert torch.cat([labels for _, labels, *_ in vector_batches(seed=None).epoch(7)]).tolist() == list(range(COUNT))


@pytest.mark.parametrize("first_step", range(6))
def test_an_epoch_goes_on_from_any_step(first_step: int) -> None:
    for batches in (vector_batches(), image_batches(2)):
        whole = list(batches.epoch(3))
        rest = list(batches.epoch(3, first_step))
        assert len(rest) == 5 - first_step
        for (x, y, *_), (expected_x, expected_y, *_) in zip(rest, whole[first_step:], strict=True):
            assert torch.equal(x, expected_x) and torch.equal(y, expected_y)


def test_images_and_vectors_come_in_the_same_order() -> None:
    for (_, one, *_), (_, other, *_) in zip(vector_batches().epoch(2), image_batches(2).epoch(2), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_workers_change_nothing(workers: int) -> None:
    for (one, *_), (other, *_) in zip(image_batches(0).epoch(4), image_batches(workers).epoch(4), strict=True):
        assert torch.equal(one, other)


def test_images_are_loaded_for_their_epoch() -> None:
    for images, labels, *_ in image_batches(2).epoch(4):
        assert images.shape == (len(labels), 3, 4, 6)
        expected = normalize(torch.from_numpy(np.stack([image_of(int(k), 4) for k in labels])), PREPROCESSING)
        assert torch.equal(images, expected)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 7, 64, 101])
def test_ranks_have_each_sample_once(count: int, ranks: int) -> None:
    labels, one_process = torch.arange(count), EpochSteps(torch.arange(count), 8, 3)
    worlds = [Thread(rank, ranks, threading.Barrier(1), []) for rank in range(ranks)]
    trained = [list(EpochSteps(labels, 8, 3, world).shares(1, 0)) for world in worlds]
    for whole, *shares in zip(one_process.indices(1, 0), *trained, strict=True):
        real = [indices[found >= 0] for indices, found, _ in shares]
        assert torch.cat(real).tolist() == whole.tolist(), "the parts of a batch in its own order"
        assert all(len(indices) and total == len(whole) for indices, _, total in shares)
    measured = [list(EpochSteps(labels, 8, None, world).shares(0, 0)) for world in worlds]
    assert {len(rounds) for rounds in measured} == {EpochSteps(labels, 8, None, worlds[0]).steps_per_epoch}
    in_order = [found for together in zip(*measured, strict=True) for found, _, _ in together]
    assert torch.cat(in_order).tolist() == list(range(count))
    assert [len(found) for found in in_order if len(found)] == [len(b) for b in one_process.indices(0, 0)]


def test_normalise_by_hand() -> None:
    pixels = torch.tensor([[[[255, 0, 51]]]], dtype=torch.uint8)  # [1, 1, 1, 3]
    expected = torch.tensor([(1 - 0.5) / 0.2, (0 - 0.4) / 0.3, (0.2 - 0.3) / 0.4])
    torch.testing.assert_close(normalize(pixels, PREPROCESSING).flatten(), expected)


def test_results_keep_the_order_of_their_items() -> None:
    def slow(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    assert list(map_in_order(slow, range(30), workers=4, ahead=8)) == [n * n for n in range(30)]


def test_no_more_than_ahead_items_are_taken_early() -> None:
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = map_in_order(lambda item: item, items(), workers=2, ahead=10)
    next(results)
    assert len(taken) == 10
    results.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_stands_in_its_items_place(workers: int) -> None:
    def fail_on_three(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    results = map_in_order(fail_on_three, range(10), workers=workers, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_threads_end_when_the_consumer_leaves() -> None:
    workers: set[threading.Thread] = set()

    def note_thread(item: int) -> int:
        workers.add(threading.current_thread())
        return item

    results = map_in_order(note_thread, range(1000), workers=3, ahead=6)
    next(results)
    results.close()
    for worker in workers:
        worker.join(timeout=10)
    assert workers and not any(worker.is_alive() for worker in workers)
