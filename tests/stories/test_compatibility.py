"""Files of other versions, other models and other machines: opened with the same labels, or refused with a reason."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.artifacts import EXPORTS, as_model
from tests.conftest import Run, finetune_arguments, write_folder
from tests.stories.test_export import logits_of
from tlkit.data.decoders import ThisProcess
from tlkit.data.view import View
from tlkit.export.weights import EXPORTERS
from tlkit.files.artifact import read_artifact, write_artifact
from tlkit.files.description import DESCRIPTION_KEY, VERSION_KEY
from tlkit.files.onnx_file import checksum_of, read_onnx
from tlkit.files.safetensors_file import content_with_checksum, read_safetensors
from tlkit.model.backbones import BackboneName, build_network, preprocessing_of
from tlkit.model.files import LoadedModel, ModelDescription
from tlkit.model.open import open_model

ROOT = Path(__file__).parents[2]
GOLDEN = sorted(path.name.removesuffix(".tsv") for path in (ROOT / "tests" / "golden").glob("*.tsv"))
WEIGHTS = ROOT / "sample_data" / "backbone.safetensors"


def rows(text: str) -> list[tuple[str, str, float]]:
    return [(name, label, float(p)) for name, label, p in csv.reader(text.splitlines(), delimiter="\t")]


@pytest.mark.parametrize("name", GOLDEN)
def test_what_was_written_once_predicts_the_same_for_ever(
    name: str, tlkit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    golden = ROOT / "tests" / "golden"
    expected = rows((golden / f"{name}.tsv").read_text())
    assert len(expected) == 5
    checkpoint = [golden / f"{name}.checkpoint.pt", "--weights", WEIGHTS]
    result = tlkit("predict", checkpoint[0], "sample_data/unlabelled", *checkpoint[1:])
    assert result.status == 0, result.err
    found = rows(result.out)
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    assert [row[2] for row in found] == pytest.approx([row[2] for row in expected], abs=1e-4)
    resumed = tlkit("resume", checkpoint[0], "--out", tmp_path / "run", "--epochs", 7, "--weights", WEIGHTS,
                    "--data", ROOT / "sample_data" / "textures")  # fmt: skip
    assert resumed.status == 0, resumed.err


def changed_checkpoint(run: Path, target: Path, change: Any) -> Path:
    content = read_artifact(str(run / "checkpoints" / "last.pt"), "tlkit-checkpoint")
    change(content)
    write_artifact(str(target), "tlkit-checkpoint", content)
    return target


def test_a_newer_format_is_refused_with_both_versions(
    artifacts: Path, images: Path, tmp_path: Path, tlkit: Run
) -> None:
    files = [tmp_path / name for name in ("model.pt", "a.safetensors", "a.onnx")]
    content = read_artifact(str(artifacts / "run" / "model.pt"), "tlkit-model")
    write_artifact(str(files[0]), "tlkit-model", {**content, "version": 9})
    whole = read_safetensors(str(artifacts / "model.safetensors"))
    files[1].write_bytes(content_with_checksum(whole.state, {**whole.metadata, VERSION_KEY: "9"}))
    sound = read_onnx(str(artifacts / "model.onnx")).content[: -len(checksum_of(b""))]
    place = sound.index(VERSION_KEY.encode()) + len(VERSION_KEY) + 2
    assert sound[place : place + 1] == b"1"
    newer = sound[:place] + b"9" + sound[place + 1 :]
    files[2].write_bytes(newer + checksum_of(newer))
    for file in files:
        result = tlkit("predict", file, images)
        assert result.status == 78, result.err
        assert "has format version 9, but this tlkit reads up to 1" in result.err
    newer_checkpoint = changed_checkpoint(artifacts / "run", tmp_path / "ckpt.pt", lambda c: c.update(version=9))
    for words in (["predict", newer_checkpoint, images], ["resume", newer_checkpoint]):
        assert tlkit(*words).status == 78


CHANGES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "a class more": (lambda c: c.update(classes=[*c["classes"], "violet"]), ()),
    "another backbone": (
        lambda c: c["backbone"].update(name="test_vit"), ("timm/test_vit", "timm/test_resnet"),
    ),
    "other weights": (lambda c: c["backbone"].update(sha256="0" * 64), ("sha256 000000000000", "--weights FILE")),
    "a key missing": (lambda c: c["model_state_dict"].pop("head.mean"), ("1 missing: head.mean",)),
    "a key too many": (
        lambda c: c["model_state_dict"].update(surprise=torch.ones(1)), ("1 unexpected: surprise",),
    ),
    "a key of the backbone": (
        lambda c: c["model_state_dict"].update({"backbone.conv1.0.weight": torch.ones(1)}),
        ("1 unexpected: backbone.conv1.0.weight",),
    ),
    "another shape": (
        lambda c: c["model_state_dict"].update({"head.mean": torch.ones(7)}), ("head.mean [7] instead of [96]",),
    ),
    "another type": (
        lambda c: c["model_state_dict"].update({"head.mean": torch.ones(96, dtype=torch.int64)}),
        ("head.mean torch.int64 instead of torch.float32",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_that_does_not_fit(
    change: str, finished_run: Path, images: Path, tmp_path: Path, tlkit: Run
) -> None:
    apply, named = CHANGES[change]
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    changed_checkpoint(finished_run, run / "checkpoints" / "last.pt", apply)
    shutil.copy(run / "checkpoints" / "last.pt", run / "checkpoints" / "best.pt")
    for words in (["predict", run / "checkpoints" / "last.pt", images], ["resume", run, "--epochs", 8]):
        result = tlkit(*words)
        assert (result.status, result.out) == (78, ""), result.err
        assert all(text in result.err for text in named), result.err
        if (words[0], change) == ("resume", "a class more"):
            assert "4 classes (blue, green, red, violet)" in result.err and "3 classes (blue, green, red)" in result.err
        assert "Traceback" not in result.err


@pytest.mark.parametrize("form", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_a_model_with_other_keys_is_never_loaded_in_part(
    form: str, change: str, artifacts: Path, images: Path, tmp_path: Path, tlkit: Run
) -> None:
    content = read_artifact(str(artifacts / "run" / "model.pt"), "tlkit-model")
    state = content["model_state_dict"]
    if change == "missing":
        del state["fc.bias"]
    else:
        state["fc.bias" if change == "shape" else "surprise"] = torch.ones(7)
    if form == "model.pt":
        write_artifact(str(tmp_path / form), "tlkit-model", content)
    else:
        metadata = read_safetensors(str(artifacts / form)).metadata
        (tmp_path / form).write_bytes(content_with_checksum(state, metadata))
    result = tlkit("predict", tmp_path / form, images)
    assert (result.status, result.out) == (78, "")
    assert {"missing": "1 missing: fc.bias", "extra": "1 unexpected: surprise", "shape": "[7] instead of [3]"}[
        change
    ] in result.err


def test_tensors_of_a_gpu_load_on_the_cpu(
    finished_run: Path, images: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU is needed to write the names of devices that a GPU would leave."""
    expected = tlkit("predict", finished_run, images).out
    contents = {
        name: read_artifact(str(finished_run / name), kind)
        for name, kind in (("model.pt", "tlkit-model"), ("checkpoints/last.pt", "tlkit-checkpoint"))
    }
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:3")
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    for name, content in contents.items():
        write_artifact(str(run / name), content["format"], content)
        assert b"cuda:3" in (run / name).read_bytes()
    torch.save(contents["model.pt"]["model_state_dict"], tmp_path / "weights.pth")
    monkeypatch.undo()
    assert tlkit("predict", run, images).out == expected
    assert tlkit("resume", run, "--epochs", 8).status == 0
    assert tlkit(*finetune_arguments(images, tmp_path / "new", "--weights", tmp_path / "weights.pth")).status == 0


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, Tensor, Tensor]:
    """A model, the pixels of 256 images, and its logits for them. Of 64 pixels, which is quicker."""
    backbone, folder = BackboneName("timm", "test_resnet"), tmp_path_factory.mktemp("many") / "images"
    torch.manual_seed(0)
    network = build_network(backbone, 3, 64)
    preprocessing = preprocessing_of(backbone, network, 64)
    description = ModelDescription(backbone, "none", "", 64, None, "linear", None, 0, ("a", "b", "c"), preprocessing)
    model = LoadedModel(network, description)
    paths = sorted(write_folder(folder, 86).rglob("*.png"))[:256]
    pixels = torch.from_numpy(np.stack([ThisProcess().load(str(path), View(preprocessing)).pixels for path in paths]))
    with torch.inference_mode():
        return model, pixels, model.from_pixels(network)(pixels)


@pytest.mark.parametrize("form", EXPORTS)
def test_exports_agree_on_many_images(form: str, tmp_path: Path, many: tuple[LoadedModel, Tensor, Tensor]) -> None:
    """In batches of 1, 7 and 64: the same class for each, logits within 1e-4."""
    model, pixels, expected = many
    path = str(tmp_path / EXPORTS[form])
    EXPORTERS[form].write(model, path)
    reread = EXPORTERS[form].read(model, path)
    with torch.inference_mode():
        for size in (1, 7, 64):
            found = torch.cat([reread(batch) for batch in pixels.split(size)])
            assert torch.equal(found.argmax(1), expected.argmax(1))
            assert (found - expected).abs().max() <= 1e-4


def test_saving_over_a_file_that_is_loaded_harms_neither(artifacts: Path, tmp_path: Path) -> None:
    """Tensors of a .safetensors file are a map of it."""
    path = tmp_path / "a.safetensors"
    shutil.copy(artifacts / "model.safetensors", path)
    model = open_model(str(path))
    expected = logits_of(model.network)
    exporter = EXPORTERS["safetensors"]
    from tlkit.files.atomic import replaced_when_whole

    for _ in range(2):
        with replaced_when_whole(str(path)) as aside:
            exporter.write(model, aside)
    assert torch.equal(logits_of(model.network), expected)
    assert torch.equal(logits_of(open_model(str(path)).network), expected)


NAMES = ["..%2f..%2fetc", "...", "a,b\t\n", "con", "-rf", "~", "$HOME", "\x1b[31m", "..\\..\\x", "é" * 100]
"""Of classes, as far as folders can have them."""

SECRETS = {"SECRET_TOKEN": "hitchhiker-4242", "USER": "zaphod"}


def test_exports_write_one_file_that_leads_nowhere_and_tells_nothing(
    images: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classes are named as paths are; home and environment are known again if they are in a file."""
    home = tmp_path / "home-of-zaphod-beeblebrox"
    for place, name in enumerate(NAMES):
        for number in range(3):
            (home / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), (25 * place, 9 * number, 0)).save(home / "data" / name / f"{number}.png")
    for name, value in {"HOME": str(home), **SECRETS}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(home)
    shutil.copy(WEIGHTS, home / "weights.safetensors")
    arguments = ["--backbone", "timm/test_byobnet", "--weights", home / "weights.safetensors", "--epochs", 1]
    assert tlkit("finetune", home / "data", *arguments, "--out", home / "run").status == 0
    assert_tells_nothing(home / "run" / "model.pt", tmp_path)
    content = read_artifact(str(home / "run" / "model.pt"), "tlkit-model")
    content["classes"] = ["../../escape", "/etc/escape", "a/../../b", *content["classes"][3:]]
    write_artifact(str(home / "model.pt"), "tlkit-model", content)
    for form, name in EXPORTS.items():
        before = set(tmp_path.rglob("*"))
        result = tlkit("export", home / "model.pt", "--format", form, "-o", home / name)
        assert result.status == 0, result.err
        inside = [home / name / part for part in ("config.json", "model.safetensors") if form == "timm"]
        assert set(tmp_path.rglob("*")) - before == {home / name, *inside}
        for file in inside or [home / name]:
            assert_tells_nothing(file, tmp_path)
        if form not in ("state_dict", "full"):
            record = tlkit("predict", home / name, images, "--format", "jsonl")
            labels = {json.loads(line)["label"] for line in record.out.splitlines()}
            assert record.status == 0 and labels <= set(content["classes"])


def assert_tells_nothing(file: Path, home: Path) -> None:
    """No path of this machine, no user, nothing of the environment."""
    words = [*SECRETS.values(), "beeblebrox", str(home), str(ROOT), "site-packages", "/home/"]
    content = file.read_bytes().lower()
    assert [word for word in words if word.lower().encode() in content] == [], file


@pytest.mark.parametrize("key", [7, None, True])
def test_a_checkpoint_whose_tensors_have_odd_names(key: Any, images: Path, tmp_path: Path, tlkit: Run) -> None:
    content = read_artifact(str(ROOT / "tests" / "golden" / f"{GOLDEN[0]}.checkpoint.pt"), "tlkit-checkpoint")
    content["model_state_dict"][key] = content["model_state_dict"].pop("head.mean")
    write_artifact(str(tmp_path / "ckpt.pt"), "tlkit-checkpoint", content)
    result = tlkit("predict", tmp_path / "ckpt.pt", images, "--weights", WEIGHTS)
    assert result.status == 65 and "is not a complete checkpoint" in result.err


def test_a_checkpoint_for_another_number_of_classes(images: Path, tmp_path: Path, tlkit: Run) -> None:
    content = read_artifact(str(ROOT / "tests" / "golden" / f"{GOLDEN[0]}.checkpoint.pt"), "tlkit-checkpoint")
    content["classes"].append("sixth")
    write_artifact(str(tmp_path / "ckpt.pt"), "tlkit-checkpoint", content)
    result = tlkit("predict", tmp_path / "ckpt.pt", images, "--weights", WEIGHTS)
    assert result.status == 78 and "instead of [6, " in result.err and "head.layers.weight [5, " in result.err


def test_a_folder_for_timm_leads_nowhere_else(artifacts: Path, images: Path, tmp_path: Path, tlkit: Run) -> None:
    """Neither an index of other files nor its config.json is followed."""
    folder = tmp_path / "timm"
    shutil.copytree(artifacts / "timm", folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"fc.weight": "../../secret"}}')
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    assert tlkit("predict", folder, images).status == 0
    config = json.loads((folder / "config.json").read_text())
    config["architecture"] = "hf-hub:someone/else"
    config["pretrained_cfg"] |= {"hf_hub_id": "someone/else", "url": "https://example.org/x", "file": "/etc/passwd"}
    config[DESCRIPTION_KEY]["backbone"]["name"] = "../../x"
    (folder / "config.json").write_text(json.dumps(config))
    refused = tlkit("predict", folder, images)
    assert refused.status == 65 and f"{folder}/config.json: is damaged, or was changed" in refused.err
    (folder / "model.safetensors").unlink()
    assert tlkit("predict", folder, images).status == 66
    as_model(str(artifacts / "timm"))
