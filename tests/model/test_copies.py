"""The backbone's weights are found in a file whatever surrounds them, and never the wrong ones."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.conftest import Run, finetune_arguments
from tests.model.shapes import SHAPES, under
from tests.payloads import Canary, saved
from tlkit.errors import DataError, MismatchError, UnsafeError
from tlkit.model.backbones import build_network, find_backbone
from tlkit.model.state_dict import weights_sha256
from tlkit.model.weights import Weights, load_weights, read_weights_file

BACKBONE = find_backbone("timm/test_resnet")
HEAD = ("fc",)


def network(seed: int, name: str = "timm/test_resnet") -> nn.Module:
    torch.manual_seed(seed)
    found = build_network(find_backbone(name), 7)
    for buffer in found.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return found


REFERENCE, OTHER = network(1), network(2)
STATE, OTHER_STATE = dict(REFERENCE.state_dict()), dict(OTHER.state_dict())
BODY = {key: tensor for key, tensor in STATE.items() if not key.startswith("fc.")}


def load(path: Path, key: str | None = None, target: nn.Module | None = None) -> str:
    """Load a file into a new network. Returns the digest of its backbone."""
    target = target or network(3)
    load_weights(target, BACKBONE, read_weights_file(str(path)), HEAD, key)
    return weights_sha256(target, HEAD)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_a_file_loads_the_same_tensors(shape: str, tmp_path: Path) -> None:
    torch.save(SHAPES[shape](STATE, BODY, OTHER_STATE), tmp_path / "weights.pth")
    assert load(tmp_path / "weights.pth") == weights_sha256(REFERENCE, HEAD)


@pytest.mark.parametrize("how", [{"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}, {}])
def test_objects_beside_the_weights_are_skipped_in_every_format(how: dict[str, object], tmp_path: Path) -> None:
    content = {"args": argparse.Namespace(lr=1), "x": Canary(tmp_path / "it ran"), "state_dict": STATE}
    torch.save(content, tmp_path / "weights.pth", **how)
    assert load(tmp_path / "weights.pth") == weights_sha256(REFERENCE, HEAD)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize(
    ("key", "expected"), [(None, STATE), ("teacher", STATE), ("student", OTHER_STATE), ("student.module", OTHER_STATE)]
)
def test_a_key_chooses_a_copy_and_the_choice_is_logged(
    key: str | None, expected: dict[str, Tensor], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save({"student": under("module.", OTHER_STATE), "teacher": STATE}, tmp_path / "weights.pth")
    found = network(3)
    load(tmp_path / "weights.pth", key, found)
    assert torch.equal(found.state_dict()["conv1.0.weight"], expected["conv1.0.weight"])
    said = capfd.readouterr().err
    assert "--weights-key" in said and "teacher" in said and "student" in said


def test_a_key_that_names_no_copy_is_refused_with_those_that_do(tmp_path: Path) -> None:
    torch.save({"student": OTHER_STATE, "teacher": STATE}, tmp_path / "weights.pth")
    with pytest.raises(MismatchError, match="under 'stu'") as raised:
        load(tmp_path / "weights.pth", "stu")
    assert "teacher" in raised.value.hint and "student" in raised.value.hint


def test_two_copies_of_which_none_is_preferred_are_refused(tmp_path: Path) -> None:
    torch.save({"first": STATE, "second": OTHER_STATE}, tmp_path / "weights.pth")
    with pytest.raises(MismatchError, match=r"2 different copies .*: first, second") as raised:
        load(tmp_path / "weights.pth")
    assert raised.value.hint == "Choose one: --weights-key second"
    assert load(tmp_path / "weights.pth", "first") == weights_sha256(REFERENCE, HEAD)


def test_two_equal_copies_are_one(tmp_path: Path) -> None:
    torch.save(
        {"first": STATE, "second": {key: tensor.clone() for key, tensor in STATE.items()}}, tmp_path / "weights.pth"
    )
    assert load(tmp_path / "weights.pth") == weights_sha256(REFERENCE, HEAD)


def test_a_refusal_lists_prefixes_with_their_matches_and_examples(tmp_path: Path) -> None:
    most = dict(itertools.islice(BODY.items(), len(BODY) - 12))
    few = dict(itertools.islice(BODY.items(), 6))
    torch.save({"encoder": most, "decoder": few}, tmp_path / "weights.pth")
    with pytest.raises(MismatchError) as raised:
        load(tmp_path / "weights.pth")
    first, second, missing = raised.value.hint.splitlines()
    assert first.startswith("  under the prefix encoder.: ") and second.startswith("  under the prefix decoder.: ")
    assert " of 5" in first or " names and shapes match" in first
    assert "missing: " in missing and missing.count(",") == 4


CHANGED: dict[str, dict[str, Tensor]] = {
    "a deeper network": {**STATE, "layer4.9.conv1.weight": torch.ones(1)},
    "LoRA beside the weights": {**STATE, "layer1.0.conv1.lora_A.weight": torch.ones(2, 2)},
    "LoRA of the same shape": {
        **{k: v for k, v in STATE.items() if k != "layer1.0.conv1.weight"},
        "layer1.0.conv1.base_layer.weight": STATE["layer1.0.conv1.weight"],
        "layer1.0.conv1.lora_B.weight": STATE["layer1.0.conv1.weight"],
    },
    "spectral norm": {k.replace("conv1.weight", "conv1.weight_orig"): v for k, v in STATE.items()},
    "parametrized": {
        k.replace("conv1.weight", "conv1.parametrizations.weight.original"): v for k, v in STATE.items()
    },
    "one missing": {k: v for k, v in STATE.items() if k != "layer2.0.conv1.weight"},
    "integers": {k: v.int() for k, v in STATE.items()},
}  # fmt: skip


@pytest.mark.parametrize("how", CHANGED)
@pytest.mark.parametrize("prefix", ["", "module.", "teacher.backbone."])
def test_weights_of_a_network_that_computes_something_else_are_refused(how: str, prefix: str, tmp_path: Path) -> None:
    torch.save(under(prefix, CHANGED[how]), tmp_path / "weights.pth")
    with pytest.raises(MismatchError):
        load(tmp_path / "weights.pth")


@pytest.mark.parametrize("extra", ["dist_token", "reg_token", "register_tokens", "norm_pre.weight", "fc_norm.weight"])
def test_a_transformer_with_other_parts_is_refused(extra: str) -> None:
    name = "timm/test_vit"
    source = network(1, name)
    weights = Weights("a.pth", {**source.state_dict(), extra: torch.ones(1, 1, 4)})
    with pytest.raises(MismatchError):
        load_weights(network(2, name), find_backbone(name), weights, ("head",))
    weights = Weights("a.pth", {**source.state_dict(), "mask_token": torch.ones(1, 1, 4)})
    load_weights(network(2, name), find_backbone(name), weights, ("head",))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_value_that_is_not_finite_names_its_tensor(value: float, suffix: str, tmp_path: Path) -> None:
    broken = {key: tensor.clone() for key, tensor in under("model.", STATE).items()}
    broken["model.layer2.0.conv1.weight"].view(-1)[3] = value
    path = tmp_path / f"weights.{suffix}"
    save_file(broken, path) if suffix == "safetensors" else torch.save(broken, path)
    with pytest.raises(
        DataError, match=r"the tensor model: layer2\.0\.conv1\.weight contains values that are not finite"
    ):
        load(path)


def test_finetune_takes_the_key_and_resume_remembers_it(images: Path, tmp_path: Path, tlkit: Run) -> None:
    student, teacher = build_network(BACKBONE, 7), build_network(BACKBONE, 7)
    torch.save({"student": student.state_dict(), "teacher": teacher.state_dict()}, tmp_path / "weights.pth")
    run = tmp_path / "run"
    options = ["--weights", tmp_path / "weights.pth", "--weights-key", "student", "--epochs", 1]
    assert tlkit(*finetune_arguments(images, run, *options)).status == 0
    checkpoint = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    assert checkpoint["backbone"]["sha256"] == weights_sha256(student, HEAD)
    assert tlkit("resume", run, "--epochs", 2).status == 0
    other = tlkit("resume", run, "--epochs", 3, "--weights-key", "teacher")
    assert other.status == 78 and "other weights" in other.err


def test_code_with_hardly_any_weights_is_refused_as_code(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(saved({"conv1.0.weight": torch.ones(1), "x": Canary(tmp_path / "it ran")}))
    with pytest.raises(UnsafeError, match="mkdir"):
        load(tmp_path / "a.pth")
    assert not (tmp_path / "it ran").exists()


def test_a_file_of_another_network_lists_its_prefixes(tmp_path: Path) -> None:
    vit = network(1, "timm/test_vit").state_dict()
    torch.save({"model": under("vit.", dict(vit)), "classifier": {"weight": torch.ones(3)}}, tmp_path / "weights.pth")
    with pytest.raises(MismatchError) as raised:
        load(tmp_path / "weights.pth")
    assert "  under the prefix model.: 0 of " in raised.value.hint
    assert "unexpected: model.vit." in raised.value.hint
