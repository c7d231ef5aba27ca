"""ONNX and torch.export: one file from pixels to logits, the same records as model.pt, and nothing in it is trusted."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from tests.conftest import Run, command
from tests.data.odd_images import BAD, READABLE
from tlkit.cli import run
from tlkit.data.normalize import normalize
from tlkit.export import graphs
from tlkit.files.checksum import write_checksummed_archive
from tlkit.model.backbones import BackboneName, build_network, classifier_layers, preprocessing_of
from tlkit.model.files import LoadedModel, ModelDescription, write_model
from tlkit.model.open import open_model
from tlkit.model.weights import load_weights, read_weights_file

FILES = {"onnx": "model.onnx", "torch_export": "model.pt2"}
SAMPLE_WEIGHTS = Path(__file__).parents[2] / "sample_data" / "backbone.safetensors"


def export_all(model: Path, folder: Path) -> Path:
    for name, file in FILES.items():
        assert run(["export", str(model), "--format", name, "-o", str(folder / file)]) == 0
    return folder


@pytest.fixture(scope="session")
def exported(artifacts: Path) -> Path:
    """Both exports of the finished run, not to be written to."""
    return artifacts


@pytest.fixture(scope="session")
def odd_images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of all kinds, and files that are none."""
    folder = tmp_path_factory.mktemp("odd")
    for name, write in {**READABLE, **{name: write for name, (_, write) in BAD.items()}}.items():
        write(folder / name)
    return sorted(path for path in folder.iterdir() if not path.is_dir())


def save_untrained(path: Path, name: str, classes: tuple[str, ...], weights: Path | None = None) -> LoadedModel:
    """A model.pt of a backbone with a random head."""
    backbone = BackboneName("timm", name)
    torch.manual_seed(0)
    network = build_network(backbone, len(classes))
    if weights is not None:
        output_layers = classifier_layers(backbone, network, len(classes)).output_layers
        load_weights(network, backbone, read_weights_file(str(weights)), output_layers)
    preprocessing = preprocessing_of(backbone, network, None)
    description = ModelDescription(backbone, "none", "", None, None, "linear", None, 0, classes, preprocessing)
    model = LoadedModel(network, description)
    write_model(str(path), model, {})
    return model


@pytest.mark.parametrize("name", FILES)
def test_the_records_are_those_of_the_model(
    name: str, exported: Path, finished_run: Path, odd_images: list[Path], tlkit: Run
) -> None:
    paths = [os.fsdecode(path) for path in odd_images]
    for options in (["--format", "jsonl", "--top-k", 3], ["--format", "tsv"], ["--format", "csv", "--top-k", 9]):
        expected = tlkit("predict", finished_run, *paths, *options)
        found = tlkit("predict", exported / FILES[name], *paths, *options)
        assert (found.status, found.err) == (expected.status, expected.err) and found.status == 3
        if "jsonl" in options:
            assert len(expected.out.splitlines()) == len(odd_images)
            for left, right in zip(expected.out.splitlines(), found.out.splitlines(), strict=True):
                assert without_probabilities(json.loads(left)) == without_probabilities(json.loads(right))
                assert probabilities(json.loads(left)) == pytest.approx(probabilities(json.loads(right)), abs=1e-5)
        else:
            rows = [
                list(csv.reader(io.StringIO(text, newline=""), delimiter="\t" if "tsv" in options else ","))
                for text in (expected.out, found.out)
            ]
            assert [[*row[:2], *row[3:]] for row in rows[0]] == [[*row[:2], *row[3:]] for row in rows[1]]
            assert len(rows[0]) >= 3


def logits_of(model: LoadedModel, pixels: np.ndarray) -> np.ndarray:
    """As training has it: normalized, then the network."""
    with torch.inference_mode():
        return np.asarray(model.network(normalize(torch.from_numpy(pixels), model.preprocessing)))


def without_probabilities(record: dict[str, object]) -> object:
    return json.loads(
        json.dumps(record), object_hook=lambda value: {k: v for k, v in value.items() if k != "probability"}
    )


def probabilities(record: dict[str, object]) -> list[float]:
    top = record.get("top", [])
    assert isinstance(top, list)
    return [entry["probability"] for entry in top]


def test_onnx_predicts_without_torch(exported: Path, images: Path) -> None:
    arguments = ["predict", str(exported / "model.onnx"), str(images), "--format", "jsonl"]
    code = f"import sys; from tlkit.cli import run; status = run({arguments!r}); print(*sys.modules); sys.exit(status)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert not {"torch", "torchvision", "timm", "onnx"} & set(result.stdout.splitlines()[-1].split())
    assert len(result.stdout.splitlines()) == 31


def test_onnx_answers_each_path_before_the_next_comes(exported: Path, images: Path) -> None:
    process = subprocess.Popen(
        command("predict", exported / "model.onnx", "-"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin and process.stdout
    for path in sorted(images.rglob("*.png"))[:3]:
        process.stdin.write(os.fsencode(path) + b"\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith(os.fsencode(path))
    process.stdin.close()
    assert process.wait(timeout=30) == 0
    process.stdout.close()


@pytest.mark.parametrize("name", FILES)
def test_evaluate_takes_exports(name: str, exported: Path, finished_run: Path, images: Path, tlkit: Run) -> None:
    expected, found = (
        json.loads(tlkit("evaluate", model, images, "--split", "all", "--format", "json").out)
        for model in (finished_run, exported / FILES[name])
    )
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert found["confusion"] == expected["confusion"] and found["images"] == 30


def test_others_can_run_the_files(exported: Path, finished_run: Path) -> None:
    model = open_model(str(finished_run))
    height, width = model.preprocessing.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (5, height, width, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    assert np.abs(session.run(None, {"pixels": pixels})[0] - logits_of(model, pixels)).max() < 1e-4
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["tlkit"]) == model.description.to_dict()
    assert metadata["tlkit_format"] == "1" and metadata["tlkit_version"]
    extra = {"tlkit.json": ""}
    program = torch.export.load(exported / "model.pt2", extra_files=extra).module()
    assert np.abs(program(torch.from_numpy(pixels)).detach().numpy() - logits_of(model, pixels)).max() < 1e-4
    assert json.loads(extra["tlkit.json"])["classes"] == list(model.classes)
    for file in FILES.values():
        assert b"site-packages" not in (exported / file).read_bytes()


def test_many_classes_of_any_name(tmp_path: Path, odd_images: list[Path], tlkit: Run) -> None:
    classes = ("location", "a\tb\n\\", "\x1b[31m", 'quoted "ἄλφα"', *(f"class {number} ✓" for number in range(3000)))
    model = save_untrained(tmp_path / "model.pt", "test_byobnet", classes, SAMPLE_WEIGHTS)
    result = tlkit("export", tmp_path / "model.pt", "--format", "onnx", "-o", tmp_path / "model.onnx")
    assert (result.status, result.out) == (0, f"{tmp_path / 'model.onnx'}\n")
    assert [line.split()[0] for line in result.err.splitlines()] == ["export", "open"]
    (image,) = [path for path in odd_images if path.name == "plain.jpg"]
    records = [
        json.loads(tlkit("predict", tmp_path / file, image, "--format", "jsonl", "--top-k", len(classes)).out)["top"]
        for file in ("model.pt", "model.onnx")
    ]
    assert {entry["label"] for entry in records[1]} == set(model.classes)
    left, right = ({entry["label"]: entry["probability"] for entry in record} for record in records)
    assert left == pytest.approx(right, abs=1e-6)


def test_a_transformer_in_both_formats(tmp_path: Path, images: Path, tlkit: Run) -> None:
    save_untrained(tmp_path / "model.pt", "test_vit", ("a", "b"))
    export_all(tmp_path / "model.pt", tmp_path)
    tables = [tlkit("predict", tmp_path / file, images).out for file in ("model.pt", *FILES.values())]
    rows = [[line.split("\t") for line in table.splitlines()] for table in tables]
    for other in rows[1:]:
        assert [row[:2] for row in other] == [row[:2] for row in rows[0]]
        assert [float(row[2]) for row in other] == pytest.approx([float(row[2]) for row in rows[0]], abs=2e-6)
    assert tlkit("export", tmp_path / "model.pt2", "-o", tmp_path / "again.pt").status == 0
    assert "test_vit" in tlkit("summary", tmp_path / "model.pt2").out


@pytest.mark.parametrize("words", [["export"], ["summary"]])
def test_what_onnx_cannot_serve_says_so(words: list[str], exported: Path, tmp_path: Path, tlkit: Run) -> None:
    output = ["-o", tmp_path / "a.pt"] if words == ["export"] else []
    result = tlkit(*words, exported / "model.onnx", *output)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"tlkit {words[0]}: {exported}/model.onnx: is an ONNX file, which only predict")


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_refused_in_a_line(
    name: str, exported: Path, images: Path, tmp_path: Path, tlkit: Run
) -> None:
    path = tmp_path / FILES[name]
    content = (exported / FILES[name]).read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    foreign = bytes(onnx_of_another()) if name == "onnx" else zip_of({"model/extra/other": b"{}"}, tmp_path)
    for damaged in (flipped, content[:middle], content[:-1], content[:50], b"", b"no such thing", foreign):
        path.write_bytes(damaged)
        for words in (["predict", path, images], ["evaluate", path, images]):
            result = tlkit(*words)
            assert (result.status, result.out) == (65, ""), (damaged[:50], result.err)
            assert result.err.startswith(f"tlkit {words[0]}: {path}: ") and len(result.err.splitlines()) == 1
    assert tlkit("predict", tmp_path / "missing" / FILES[name], images).status == 66


def onnx_of_another() -> bytes:
    from onnx import helper

    content: bytes = helper.make_model(helper.make_graph([], "another", [], [])).SerializeToString()
    return content


def zip_of(files: dict[str, bytes], folder: Path) -> bytes:
    with zipfile.ZipFile(folder / "made.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return (folder / "made.zip").read_bytes()


def rewritten(source: Path, target: Path, changes: dict[str, bytes], seal: bool = True) -> Path:
    """A .pt2 file with other content for files whose names end so, its checksums right, and sealed as anyone can."""
    inner = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(inner, "w") as new:
        for name in old.namelist():
            new.writestr(name, next((v for end, v in changes.items() if name.endswith(end)), old.read(name)))
    with open(target, "wb") as file:
        if seal:
            write_checksummed_archive(file, lambda sealed: sealed.write(inner.getvalue()))
        else:
            file.write(inner.getvalue())
    return target


class Trap:
    """Whoever unpickles it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.mark),)


def test_nothing_in_a_pt2_file_is_run(exported: Path, images: Path, tmp_path: Path, tlkit: Run) -> None:
    mark = tmp_path / "sprung"
    trap = pickle.dumps(Trap(mark))
    source, end = exported / "model.pt2", "model_weights_config.json"
    with zipfile.ZipFile(source) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(end)]
        config = json.loads(archive.read(name))
    for entry in config["config"].values():
        entry["use_pickle"] = True
    pickled = {end: json.dumps(config).encode(), "weight_0": trap}
    result = tlkit("predict", rewritten(source, tmp_path / "a.pt2", pickled), images)
    assert result.status == 77 and "would run code" in result.err
    hostile = {"sample_inputs/model.pt": trap, "models/model.json": b'{"__import__": "os"}', "constants/tensor_0": trap}
    result = tlkit("predict", rewritten(source, tmp_path / "b.pt2", hostile), images)
    assert result.status == 0  # what would have run is not looked at; weights and description are whole
    assert not mark.exists()
    for content in (b"[]", b"{}", b"null", b'{"config": {"a": 1}}', b"[" * 100_000):
        result = tlkit("predict", rewritten(source, tmp_path / "c.pt2", {end: content}), images)
        assert result.status == 65, result.err
        result = tlkit("predict", rewritten(source, tmp_path / "c.pt2", {"tlkit.json": content}), images)
        assert result.status == 65, result.err


def test_a_description_that_was_changed_is_noticed(exported: Path, images: Path, tmp_path: Path, tlkit: Run) -> None:
    with zipfile.ZipFile(exported / "model.pt2") as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("tlkit.json")]
        description = archive.read(name)
    changed = {"tlkit.json": description.replace(b'"blue"', b'"Blue"')}
    unsealed = rewritten(exported / "model.pt2", tmp_path / "a.pt2", changed, seal=False)
    result = tlkit("predict", unsealed, images)
    assert result.status == 65 and "checksum" in result.err
    newer = {"tlkit.json": description.replace(b'"version": 1', b'"version": 2')}
    assert tlkit("predict", rewritten(exported / "model.pt2", tmp_path / "b.pt2", newer), images).status == 78


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_is_named(
    missing: str, finished_run: Path, exported: Path, images: Path, tmp_path: Path, tlkit: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, missing, None)
    result = tlkit("export", finished_run, "--format", "onnx", "-o", tmp_path / "m.onnx")
    assert (result.status, result.out) == (69, "")
    assert f"needs {missing}\nInstall it: pip install 'tlkit[onnx]'\n" in result.err
    assert not list(tmp_path.iterdir())
    predicted = tlkit("predict", exported / "model.onnx", images)
    assert predicted.status == (69 if missing == "onnxruntime" else 0)
    assert ("pip install 'tlkit[onnx]'" in predicted.err) == (missing == "onnxruntime")


def test_a_model_of_more_than_2_gb(
    finished_run: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "LARGEST_ONNX", 1_000_000)
    result = tlkit("export", finished_run, "--format", "onnx", "-o", tmp_path / "m.onnx")
    assert result.status == 2 and "holds at most 2 GB" in result.err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FILES)
def test_a_network_that_cannot_be_followed(
    name: str, finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Fickle(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))

    model = LoadedModel(Fickle(), open_model(str(finished_run)).description)
    with pytest.raises(graphs.UsageError, match="cannot hold timm/test_resnet"):
        {"onnx": graphs.Onnx(), "torch_export": graphs.TorchExport()}[name].write(model, str(tmp_path / "file"))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_names_that_do_not_fit_are_refused(finished_run: Path, tmp_path: Path, tlkit: Run) -> None:
    for format, file in (("onnx", "m.pt"), ("torch_export", "m.pt"), ("state_dict", "m.onnx"), ("full", "m.pt2")):
        result = tlkit("export", finished_run, "--format", format, "-o", tmp_path / file)
        assert result.status == 2 and f"--format {format}: does not match" in result.err


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "gpu"])
def test_a_device_that_onnxruntime_has_not(device: str, exported: Path, images: Path, tlkit: Run) -> None:
    result = tlkit("predict", exported / "model.onnx", images, "--device", device)
    assert result.status == (2 if device == "gpu" else 69)
    assert result.err.startswith("tlkit predict: --device: ")


def test_the_last_line_of_defence_compares(
    exported: Path, finished_run: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(exported / "model.pt2", tmp_path / "m.pt2")
    other = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    monkeypatch.setattr(graphs, "load_program", lambda path, trusted: LoadedProgram(other))
    result = tlkit("export", finished_run, "--format", "torch_export", "-o", tmp_path / "m.pt2", "--overwrite")
    assert result.status == 65 and "differ" in result.err
    assert (tmp_path / "m.pt2").read_bytes() == (exported / "model.pt2").read_bytes()


class LoadedProgram:
    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def module(self) -> object:
        return lambda pixels: self.network(pixels.float())
