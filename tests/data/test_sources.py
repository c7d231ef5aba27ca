"""The table of data sources, and one that only this file knows: images in memory."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import BACKBONE, Run
from tlkit.commands.finetune import finetune
from tlkit.data.bad_images import check_images
from tlkit.data.decode import decode_file
from tlkit.data.decoders import Decoder, open_decoder
from tlkit.data.folder import Dataset, Sample
from tlkit.data.header import Accepted
from tlkit.data.image_file import ImageError, open_bytes
from tlkit.data.preprocessing import Preprocessing
from tlkit.data.sources import DATASET_SOURCES, ClassFolders, find_dataset
from tlkit.data.splitting import Split, folds_of
from tlkit.data.view import View
from tlkit.options import FinetuneOptions
from tlkit.options.data import DataOptions

COLORS = {"blue": (20, 30, 200), "green": (20, 200, 30), "red": (200, 30, 20)}


def colored(color: tuple[int, int, int], number: int) -> bytes:
    """A PNG file of nearly one color."""
    noise = np.random.default_rng(number).integers(-20, 20, (32, 32, 3))
    file = io.BytesIO()
    Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


IMAGES = {f"{name}/{n}.png": colored(color, n) for name, color in COLORS.items() for n in range(10)}


class MemorySample(Sample):
    """A sample whose path is a key of IMAGES."""

    def open(self) -> BufferedReader:
        return open_bytes(self.path, IMAGES[self.path])


class MemorySource:
    """Reads DATA "memory:colors"."""

    def accepts(self, data: str) -> bool:
        return data == "memory:colors"

    def require(self, data: str) -> None:
        pass

    def read(self, options: DataOptions, split: Split) -> Dataset:
        classes = tuple(COLORS)
        samples: list[Sample] = [MemorySample(name, classes.index(name.split("/")[0])) for name in IMAGES]
        return split(Dataset(options.data, classes, samples, [], ""), "")


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> FinetuneOptions:
    monkeypatch.setattr("tlkit.data.sources.DATASET_SOURCES", {"memory": MemorySource(), **DATASET_SOURCES})
    return FinetuneOptions(data="memory:colors", backbone=BACKBONE, weights="none", epochs=20)


@pytest.fixture(params=[0, 1], ids=["here", "processes"])
def decoder(request: pytest.FixtureRequest) -> Iterator[Decoder]:
    decoder = open_decoder(request.param)
    yield decoder
    decoder.close()


def test_the_last_source_reads_every_folder() -> None:
    assert isinstance([*DATASET_SOURCES.values()][-1], ClassFolders)
    assert all(source.accepts("photos") is isinstance(source, ClassFolders) for source in DATASET_SOURCES.values())


def test_another_source_is_read_split_and_checked(options: FinetuneOptions) -> None:
    dataset = find_dataset(options)
    assert (len(dataset.train), len(dataset.val)) == (24, 6)
    assert all(isinstance(sample, MemorySample) for sample in dataset.train + dataset.val)
    assert check_images(options, dataset, thorough=True).skipped == ()
    assert {sample.path for fold in folds_of(dataset, 3, 0) for sample in fold.val} == set(IMAGES)


def test_samples_and_bytes_are_decoded_as_files_are(options: FinetuneOptions, decoder: Decoder, tmp_path: Path) -> None:
    sample = find_dataset(options).train[0]
    file = tmp_path / "image.png"
    file.write_bytes(IMAGES[sample.path])
    preprocessing = Preprocessing((16, 16), (16, 16), "squash", "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    view = View(preprocessing)
    expected = decoder.load(str(file), view).pixels
    assert np.array_equal(decoder.load_sample(sample, view).pixels, expected)
    assert np.array_equal(decoder.load_bytes("image", IMAGES[sample.path], view).pixels, expected)


@pytest.mark.parametrize("content", [b"", b"no image", IMAGES["red/0.png"][:200]], ids=["empty", "text", "cut"])
def test_bytes_fail_as_files_do(content: bytes, tmp_path: Path) -> None:
    if content:
        file = tmp_path / "image.png"
        file.write_bytes(content)
        with pytest.raises(ImageError) as by_file, file.open("rb") as opened:
            decode_file("image", opened, Accepted())
        with pytest.raises(ImageError) as by_bytes:
            decode_file("image", io.BytesIO(content), Accepted())
        assert (by_file.value.code, by_file.value.message) == (by_bytes.value.code, by_bytes.value.message)
    else:
        with pytest.raises(ImageError, match="empty"):
            open_bytes("image", content)


def test_another_source_is_trained_on(options: FinetuneOptions, tmp_path: Path, tlkit: Run) -> None:
    run = tmp_path / "run"
    assert finetune(FinetuneOptions(**{**options.to_dict(), "out": str(run), "device": "cpu"})) == 0
    assert json.loads((run / "status.json").read_text())["best"]["val_accuracy"] >= 5 / 6
    (tmp_path / "red.png").write_bytes(IMAGES["red/3.png"])
    assert "\tred\t" in tlkit("predict", run, tmp_path / "red.png").out
