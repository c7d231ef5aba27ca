"""model.onnx beside model.pt: every finished run has one, and `tlkit predict RUN` runs it on a CPU without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import BACKBONE, Run, command, finetune_arguments
from tests.stories.test_graph_exports import probabilities, without_probabilities
from tlkit.cli import run as run_tlkit
from tlkit.export.verify import compare
from tlkit.features import backend, run_model
from tlkit.files.onnx_file import MODEL_CHECKSUM_KEY, checksum_of, read_onnx
from tlkit.files.run_folder import RunFolder
from tlkit.inference import open as open_module
from tlkit.inference.onnx_predictor import OnnxPredictor, open_graph
from tlkit.inference.open import open_predictor
from tlkit.inference.torch_predictor import TorchPredictor
from tlkit.model.backbones import build_network, find_backbone
from tlkit.model.open import open_model
from tlkit.options.predict import InferenceOptions


@pytest.fixture(scope="module")
def run_with_onnx(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that has model.onnx, not to be written to."""
    out = tmp_path_factory.mktemp("with onnx") / "run"
    assert run_tlkit(finetune_arguments(images, out, onnx=True)) == 0
    return out


@pytest.fixture
def own_run(run_with_onnx: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_with_onnx, tmp_path / "run"))


@pytest.fixture
def count_exports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What is exported, in an own cache."""
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "own cache"))
    exported: list[str] = []
    for module in (backend, run_model):
        export = module.as_onnx

        def counted(network: object, size: object, output: str, metadata: object, export: object = export) -> bytes:
            exported.append(output)
            content: bytes = export(network, size, output, metadata)  # type: ignore[operator]
            return content

        monkeypatch.setattr(module, "as_onnx", counted)
    return exported


def largest_difference(run: Path) -> float:
    """Between the logits of model.pt by torch and of model.onnx."""
    path = str(run / "model.onnx")
    session = open_graph(path, read_onnx(path), "cpu").session
    return compare(
        open_model(str(run / "model.pt")),
        lambda pixels: torch.from_numpy(session.run(["logits"], {"pixels": pixels.numpy()})[0]),
        path,
    )


def test_records_are_those_of_torch(run_with_onnx: Path, images: Path, tlkit: Run) -> None:
    options = ["--format", "jsonl", "--top-k", 3]
    expected = tlkit("predict", run_with_onnx, images, "--engine", "torch", *options)
    found = tlkit("predict", run_with_onnx, images, *options)
    assert (found.status, found.err) == (expected.status, expected.err) == (0, "")
    assert len(expected.out.splitlines()) == 30 and found.out != expected.out, "the last digits tell which engine ran"
    for left, right in zip(expected.out.splitlines(), found.out.splitlines(), strict=True):
        assert without_probabilities(json.loads(left)) == without_probabilities(json.loads(right))
        assert probabilities(json.loads(left)) == pytest.approx(probabilities(json.loads(right)), abs=1e-5)


def test_torch_is_not_loaded(run_with_onnx: Path, images: Path) -> None:
    arguments = ["predict", str(run_with_onnx), str(images), "--format", "jsonl"]
    code = f"import sys; from tlkit.cli import run; status = run({arguments!r}); print(*sys.modules); sys.exit(status)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert not {"torch", "torchvision", "timm", "onnx"} & set(result.stdout.splitlines()[-1].split())
    assert len(result.stdout.splitlines()) == 31


def test_the_file_describes_itself_as_an_export_does(run_with_onnx: Path, tlkit: Run, tmp_path: Path) -> None:
    assert tlkit("export", run_with_onnx, "--format", "onnx", "-o", tmp_path / "export.onnx").status == 0
    exported, written = read_onnx(str(tmp_path / "export.onnx")), read_onnx(str(run_with_onnx / "model.onnx"))
    assert dict(written.metadata) == {
        **exported.metadata,
        MODEL_CHECKSUM_KEY: written.metadata[MODEL_CHECKSUM_KEY],
        "tlkit_sha256": written.metadata["tlkit_sha256"],
    }


def test_which_engine_runs_a_model(run_with_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(path: Path, device: str, precision: str, **others: str) -> type:
        options: dict[str, Any] = {"model": str(path), "device": device, "precision": precision, **others}
        return type(open_predictor(InferenceOptions(**options)))

    run, file = run_with_onnx, run_with_onnx / "model.pt"
    monkeypatch.setattr(open_module, "may_have_gpu", lambda: False)
    assert kind(run, "cpu", "fp32") is kind(run, "auto", "auto") is OnnxPredictor
    assert kind(run, "cpu", "auto", engine="onnxruntime") is OnnxPredictor
    assert kind(file, "cpu", "auto", engine="onnxruntime") is OnnxPredictor
    assert kind(run, "cpu", "fp32", engine="torch") is kind(file, "cpu", "fp32") is TorchPredictor
    assert kind(run, "cpu", "bf16") is kind(run, "cpu", "fp32", trust_pickle="other") is TorchPredictor
    monkeypatch.setattr(open_module, "may_have_gpu", lambda: True)
    assert kind(run, "auto", "auto") is TorchPredictor
    monkeypatch.setattr(open_module, "version", lambda name: None)
    assert kind(run, "cpu", "auto") is TorchPredictor, "onnxruntime is not installed"


def test_evaluate_runs_model_pt(run_with_onnx: Path, images: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_module, "find_onnx_of_run", lambda path: pytest.fail("evaluate takes model.pt"))
    figures = [
        json.loads(tlkit("evaluate", run_with_onnx, images, "--format", "json", *engine).out)
        for engine in ([], ["--engine", "onnxruntime"])
    ]
    assert figures[0]["confusion"] == figures[1]["confusion"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-1], "is damaged"),
        (lambda content: content[:100], "is not an ONNX file"),
        (lambda content: b"", "has no description"),
        (lambda content: content[: len(content) // 2] + b"!" + content[len(content) // 2 + 1 :], "is damaged"),
    ],
    ids=["cut", "only its head", "empty", "one byte"],
)
def test_a_damaged_file_is_not_used(
    damage: Callable[[bytes], bytes], reason: str, own_run: Path, images: Path, tlkit: Run
) -> None:
    file = own_run / "model.onnx"
    file.write_bytes(damage(file.read_bytes()))
    result = tlkit("predict", own_run, images)
    (line,) = result.err.splitlines()
    assert result.status == 0 and len(result.out.splitlines()) == 30
    assert reason in line and line.endswith("; model.pt is used instead")
    assert tlkit("predict", own_run, images, "--engine", "onnxruntime").status == 65


def test_a_file_of_another_model_is_not_used(own_run: Path, finished_run: Path, images: Path, tlkit: Run) -> None:
    longer = tlkit("resume", own_run, "--epochs", 8, "--patience", 100)
    assert longer.status == 0 and tlkit("predict", own_run, images).err == ""
    content = (own_run / "model.onnx").read_bytes()
    shutil.copy(finished_run / "model.pt", own_run / "model.pt")
    result = tlkit("predict", own_run, images)
    (line,) = result.err.splitlines()
    assert result.status == 0 and "was not made from this model.pt; model.pt is used instead" in line
    assert tlkit("predict", own_run, images, "--engine", "onnxruntime").status == 69
    (own_run / "model.onnx").write_bytes(content)
    (own_run / "model.pt").unlink()
    assert tlkit("predict", own_run, images).status == 0, "the best checkpoint"


def test_a_run_without_the_file_is_run_by_torch(finished_run: Path, images: Path, tlkit: Run) -> None:
    assert not (finished_run / "model.onnx").exists(), "--no-onnx"
    result = tlkit("predict", finished_run, images)
    assert (result.status, result.err) == (0, "")
    asked = tlkit("predict", finished_run, images, "--engine", "onnxruntime")
    assert (asked.status, asked.out) == (69, "")
    assert asked.err.startswith("tlkit predict: --engine onnxruntime: there is no model.onnx beside ")
    assert f"tlkit export {finished_run} --format onnx" in asked.err


def test_options_that_onnxruntime_is_not_for(artifacts: Path, images: Path, tlkit: Run) -> None:
    for flags in (["--precision", "bf16"], ["--device", "cuda"]):
        assert tlkit("predict", artifacts / "model.pt", images, "--engine", "onnxruntime", *flags).status == 2
    assert tlkit("predict", artifacts / "model.onnx", images, "--engine", "torch").status == 2


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--head", "mlp", "--hidden", 12],
        ["--head", "stack"],
        ["--no-cache", "--epochs", 1],
        ["--backbone", "torchvision/squeezenet1_1", "--image-size", 64, "--epochs", 1],
        ["--backbone", "timm/test_vit", "--epochs", 1],
    ],
    ids=["linear", "mlp", "stack", "no cache", "positions", "transformer"],
)
def test_heads_are_joined_with_the_kept_backbone(
    flags: list[object], images: Path, tmp_path: Path, tlkit: Run, count_exports: list[str]
) -> None:
    if "stack" in flags:  # it needs the class outputs of a weights file
        torch.manual_seed(0)
        torch.save(build_network(find_backbone(BACKBONE), 1000, None).state_dict(), tmp_path / "weights.pth")
        flags = [*flags, "--weights", tmp_path / "weights.pth"]
    for name in ("first", "second"):
        result = tlkit(*finetune_arguments(images, tmp_path / name, *flags, "--seed", 3, onnx=True))
        assert result.status == 0 and "warning" not in result.err, result.err
    assert count_exports == ["features"], "the second run of a backbone exports nothing"
    assert largest_difference(tmp_path / "second") < 1e-4


def test_another_backbone_is_exported_again(images: Path, tmp_path: Path, tlkit: Run, count_exports: list[str]) -> None:
    for seed in (1, 2):  # random weights, so other ones
        assert tlkit(*finetune_arguments(images, tmp_path / str(seed), "--seed", seed, onnx=True)).status == 0
    assert count_exports == ["features", "features"]


def test_a_fine_tuned_backbone_is_exported_whole(
    images: Path, tmp_path: Path, tlkit: Run, count_exports: list[str]
) -> None:
    result = tlkit(*finetune_arguments(images, tmp_path / "run", "--unfreeze", "layer4", "--epochs", 1, onnx=True))
    assert result.status == 0, result.err
    assert count_exports == ["logits"] and largest_difference(tmp_path / "run") < 1e-4


def test_resume_writes_the_file(images: Path, tmp_path: Path, tlkit: Run, own_run: Path) -> None:
    before = read_onnx(str(own_run / "model.onnx")).metadata[MODEL_CHECKSUM_KEY]
    assert tlkit("resume", own_run, "--epochs", 30).status == 0
    assert read_onnx(str(own_run / "model.onnx")).metadata[MODEL_CHECKSUM_KEY] != before
    assert largest_difference(own_run) < 1e-4


write_file = RunFolder.write


def no_room_for_onnx(run: RunFolder, path: str, write: Any) -> None:
    if path.endswith(".onnx"):
        Path("/nowhere/at/all").touch()
    write_file(run, path, write)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("LARGEST_WEIGHTS", 1000, "the limit is"),
        ("join_head", lambda *arguments: 1 / 0, "division by zero"),
        ("compare", lambda *arguments: open_model("nowhere"), "nowhere"),
        ("RunFolder.write", no_room_for_onnx, "No such file"),
        ("has_extra", lambda: False, None),
    ],
    ids=["large", "not joined", "other logits", "disk", "not installed"],
)
def test_a_model_that_cannot_be_written_as_onnx_ends_no_run(
    name: str, value: object, line: str | None, images: Path, tmp_path: Path, tlkit: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(run_model if "." not in name else RunFolder, name.removeprefix("RunFolder."), value)
    result = tlkit(*finetune_arguments(images, tmp_path / "run", onnx=True))
    assert result.status == 0 and result.out == f"{tmp_path / 'run' / 'model.pt'}\n"
    warnings = [text for text in result.err.splitlines() if "model.onnx" in text]
    assert [line in text for text in warnings] == ([True] if line else []) if line else warnings == []
    assert not (tmp_path / "run" / "model.onnx").exists()


def test_a_file_with_a_wrong_checksum_of_its_model(own_run: Path, images: Path, tlkit: Run) -> None:
    """The checksum of model.pt is part of what the file's own checksum covers."""
    file = own_run / "model.onnx"
    checksum = read_onnx(str(file)).metadata[MODEL_CHECKSUM_KEY].encode()
    changed = file.read_bytes().replace(checksum, checksum[::-1])
    file.write_bytes(changed)
    assert "is damaged" in tlkit("predict", own_run, images).err
    content = changed[: -len(checksum_of(b""))]
    file.write_bytes(content + checksum_of(content))
    assert "was not made from this model.pt" in tlkit("predict", own_run, images).err


def test_the_best_model_of_a_search_has_the_file_and_its_trials_have_none(images: Path, tmp_path: Path) -> None:
    # In a process of its own, as users start it: Ray reads its environment when it is imported.
    words = command(
        "tune", images, "--backbone", BACKBONE, "--weights", "none", "--out", tmp_path / "search", "--epochs", 2,
        "--try", "learning_rate=grid:0.01,0.1", "--ray-address", "none",
    )  # fmt: skip
    result = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    (file,) = (tmp_path / "search").rglob("model.onnx")
    assert result.stdout.strip() == str(file.parent)
    assert largest_difference(file.parent) < 1e-4
