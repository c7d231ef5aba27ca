"""Models that torch opens are labelled with by onnxruntime once their graph is kept; records stay what they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Run
from tests.stories.test_graph_exports import probabilities, without_probabilities
from tlkit.data.decoders import Pixels
from tlkit.errors import MissingInputError
from tlkit.features.cache import graph_file, space_folder, store_root
from tlkit.inference import onnx_handover
from tlkit.inference.onnx_handover import ModelGraph, Relay, graph_of
from tlkit.inference.onnx_predictor import OnnxPredictor
from tlkit.inference.open import open_predictor
from tlkit.inference.predictor import Logits
from tlkit.inference.torch_predictor import TorchPredictor
from tlkit.options.devices import DeviceSpec


@pytest.fixture(scope="module")
def kept(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the graph of the finished run, not to be written to."""
    folder = tmp_path_factory.mktemp("kept")
    image = Path(__file__).parents[2] / "sample_data" / "unlabelled" / "image_1.jpg"
    result = subprocess.run(
        [sys.executable, "-m", "tlkit", "predict", finished_run, image, "--engine", "onnxruntime"],
        env={**os.environ, "TLKIT_CACHE": str(folder)},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "") and len(result.stdout.splitlines()) == 1
    return folder


@pytest.fixture
def with_graph(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLKIT_CACHE", str(kept))


def graph_path(model: Path) -> Path:
    graph = graph_of(str(model))
    assert graph is not None
    return Path(graph_file(space_folder(store_root(), graph.space())))


def test_records_are_those_of_torch(with_graph: None, finished_run: Path, images: Path, tlkit: Run) -> None:
    options = ["--format", "jsonl", "--top-k", 3]
    expected = tlkit("predict", finished_run, images, "--engine", "torch", *options)
    found = tlkit("predict", finished_run, images, *options)
    assert (found.status, found.err) == (expected.status, expected.err) == (0, "")
    assert len(expected.out.splitlines()) == 30 and found.out != expected.out, "the last digits tell who computed"
    for left, right in zip(expected.out.splitlines(), found.out.splitlines(), strict=True):
        assert without_probabilities(json.loads(left)) == without_probabilities(json.loads(right))
        assert probabilities(json.loads(left)) == pytest.approx(probabilities(json.loads(right)), abs=1e-5)
    figures = [
        json.loads(tlkit("evaluate", finished_run, images, "--format", "json", *engine).out)
        for engine in (["--engine", "torch"], [])
    ]
    assert figures[0]["confusion"] == figures[1]["confusion"]


def test_torch_is_not_loaded(with_graph: None, finished_run: Path, images: Path) -> None:
    for model in (finished_run, finished_run / "model.pt"):
        arguments = ["predict", str(model), str(images), "--format", "jsonl"]
        code = (
            f"import sys; from tlkit.cli import run; status = run({arguments!r}); print(*sys.modules); sys.exit(status)"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (0, "")
        assert not {"torch", "torchvision", "timm", "onnx"} & set(result.stdout.splitlines()[-1].split())
        assert len(result.stdout.splitlines()) == 31


def test_who_runs_a_model(with_graph: None, finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(device: str, *arguments: str | None) -> type:
        opened = open_predictor(str(finished_run), None, DeviceSpec((device,)), *arguments)  # type: ignore[arg-type]
        return type(opened.model if isinstance(opened, Relay) else opened)

    assert kind("cpu", "fp32") is kind("auto", "auto") is kind("cpu", "auto", None, "onnxruntime") is OnnxPredictor
    assert kind("cpu", "fp32", None, "torch") is kind("cpu", "bf16") is kind("cpu", "fp32", "other") is TorchPredictor
    monkeypatch.setattr(onnx_handover, "has_graph", lambda space: False)
    assert kind("cpu", "fp32") is TorchPredictor


def test_a_graph_stands_for_no_other_file(
    with_graph: None, finished_run: Path, images: Path, tmp_path: Path, tlkit: Run
) -> None:
    content = bytearray((finished_run / "model.pt").read_bytes())
    content[len(content) // 2] ^= 1  # it still ends with the seal by which the graph is found
    (tmp_path / "model.pt").write_bytes(content)
    result = tlkit("predict", tmp_path / "model.pt", images)
    assert (result.status, result.out) == (65, "") and "its checksum does not match" in result.err
    (tmp_path / "cut.pt").write_bytes(content[:-1])
    assert tlkit("predict", tmp_path / "cut.pt", images).status == 65


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:100], lambda content: b""])
def test_a_damaged_graph_is_left(
    damage: Callable[[bytes], bytes], kept: Path, finished_run: Path, images: Path, tmp_path: Path, tlkit: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("TLKIT_CACHE", str(kept))
    content = graph_path(finished_run).read_bytes()
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path))
    copy = graph_path(finished_run)
    copy.parent.mkdir(parents=True)
    copy.write_bytes(damage(content))
    result = tlkit("predict", finished_run, images)
    assert (result.status, result.err, len(result.out.splitlines())) == (0, "", 30)
    assert not copy.exists()


def test_what_cannot_be_prepared_says_so(artifacts: Path, images: Path, tlkit: Run) -> None:
    result = tlkit("predict", artifacts / "model.safetensors", images, "--engine", "onnxruntime")
    assert (result.status, result.out) == (69, "")
    assert result.err.startswith("tlkit predict: --engine onnxruntime: cannot run ")
    for flags in (["--precision", "bf16"], ["--device", "cuda"]):
        assert tlkit("predict", artifacts / "model.pt", images, "--engine", "onnxruntime", *flags).status == 2
    assert tlkit("predict", artifacts / "model.onnx", images, "--engine", "torch").status == 2


class Slow:
    """A Labeller that says how often it was asked, and takes its time by a clock of its own."""

    classes = ("a", "b")
    preprocessing = None
    computing = "slowly"

    def __init__(self, clock: list[float], seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds
        self.asked = 0

    def logits(self, pixels: Pixels) -> Logits:
        self.asked += 1
        self.clock[0] += self.seconds
        return np.zeros((len(pixels), 2), np.float32)


class FakePreparation:
    """Ends when it is looked at for the third time."""

    started = 0

    def __init__(self, graph: ModelGraph) -> None:
        FakePreparation.started += 1
        self.looks = 0

    def has_ended(self) -> bool:
        self.looks += 1
        return self.looks == 3


@pytest.mark.parametrize("ready", [True, False, None], ids=["ready", "not ready", "moved"])
def test_onnxruntime_takes_over_when_it_is_ready(
    ready: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path))
    clock = [0.0]
    first, second = Slow(clock, 4.0), Slow(clock, 1.0)
    monkeypatch.setattr(onnx_handover, "Preparation", FakePreparation)
    monkeypatch.setattr(FakePreparation, "started", 0)
    monkeypatch.setattr(onnx_handover.time, "monotonic", lambda: clock[0])

    def take_over(graph: ModelGraph) -> Slow | None:
        if ready is None:
            raise MissingInputError(graph.path, "no such file")
        return second if ready else None

    monkeypatch.setattr(ModelGraph, "open", take_over)
    relay = Relay(first, ModelGraph("model.pt", "seal"))  # type: ignore[arg-type]
    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    for _ in range(3):
        relay.logits(pixels)
    assert FakePreparation.started == 0, "nobody has waited long enough"
    for _ in range(7):
        relay.logits(pixels)
    assert FakePreparation.started == 1
    assert (first.asked, second.asked) == ((6, 4) if ready else (10, 0))


@pytest.mark.parametrize(("waiting", "kept"), [(6.0, True), (0.0, False)])
def test_nothing_is_prepared_in_vain(
    waiting: float, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the model mostly waits for images, or where nothing can be kept."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path if kept else tmp_path / "file"))
    clock = [0.0]
    slow = Slow(clock, 4.0)
    monkeypatch.setattr(onnx_handover, "Preparation", FakePreparation)
    monkeypatch.setattr(FakePreparation, "started", 0)
    monkeypatch.setattr(onnx_handover.time, "monotonic", lambda: clock[0])
    relay = Relay(slow, ModelGraph("model.pt", "seal"))  # type: ignore[arg-type]
    for _ in range(20):
        clock[0] += waiting
        relay.logits(np.zeros((1, 8, 8, 3), np.uint8))
    assert FakePreparation.started == 0 and slow.asked == 20


def test_what_prepares_ends_with_whom_it_prepares_for(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path))
    code = (
        "import sys, os; from tlkit.inference.onnx_handover import Preparation, graph_of;"
        "print(Preparation(graph_of(sys.argv[1])).process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    result = subprocess.run([sys.executable, "-c", code, finished_run], capture_output=True, text=True)
    assert result.returncode == -9
    process = Path("/proc", result.stdout.strip())
    until = time.monotonic() + 60
    while process.exists() and "Z" not in (process / "stat").read_text().rpartition(")")[2][:3]:
        assert time.monotonic() < until, "it is still there"
        time.sleep(0.05)
    assert not graph_path(finished_run).exists(), "it went on to its own end"
