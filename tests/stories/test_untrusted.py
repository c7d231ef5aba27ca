"""Files from strangers: what would run code is refused by every command, and runs only where its file is named."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from tests.artifacts import KINDS, as_checkpoint, as_model, as_weights
from tests.conftest import Run, finetune_arguments
from tests.payloads import FORMS, SUFFIXES, Canary, saved
from tlkit.errors import DataError, TlkitError, UnsafeError
from tlkit.files import artifact
from tlkit.files.artifact import load_safely


def commands(file: Path, images: Path, work: Path) -> dict[str, list[object]]:
    """Every command that reads a file, reading this one."""
    run, folder = work / "run", work / "folder"
    for place, name in ((run, "model.pt"), (folder, "model.safetensors")):
        place.mkdir(exist_ok=True)
        (place / name).unlink(missing_ok=True)
        (place / name).symlink_to(file)
    (folder / "config.json").write_text("{}")
    return {
        "predict": ["predict", file, images],
        "predict, run": ["predict", run, images],
        "predict, folder": ["predict", folder, images],
        "evaluate": ["evaluate", file, images],
        "export": ["export", file, "-o", work / "out.pt"],
        "summary": ["summary", file],
        "resume": ["resume", file],
        "finetune": finetune_arguments(images, work / "new", "--weights", file),
    }


@pytest.mark.parametrize("form", FORMS)
def test_code_in_a_file_never_runs(form: str, images: Path, tmp_path: Path, tlkit: Run) -> None:
    mark = tmp_path / "it ran"
    content = FORMS[form](Canary(mark))
    for suffix in SUFFIXES:
        file = tmp_path / f"file{suffix}"
        file.write_bytes(content)
        for name, words in commands(file, images, tmp_path).items():
            result = tlkit(*words)
            assert not mark.exists(), (name, suffix)
            assert result.out == "" and "Traceback" not in result.err
            if form == "compressed":  # refused before anybody looks inside
                assert result.status in (65, 77), (name, suffix, result.err)
            else:
                assert result.status == 77, (name, suffix, result.err)
                assert ": refused: " in result.err and "--trust-pickle" in result.err
    assert not (tmp_path / "out.pt").exists() and not (tmp_path / "new").exists()


def test_a_named_file_runs_and_no_other(images: Path, tmp_path: Path, tlkit: Run) -> None:
    mark = tmp_path / "it ran"
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=7)
    for name, content in {"module.pt": network, "checkpoint.pth": {"model": network, "epoch": 3}}.items():
        file = tmp_path / name
        torch.save(content, file)
        other = tmp_path / "other.pt"
        other.write_bytes(saved(Canary(mark)))
        arguments = finetune_arguments(images, tmp_path / f"run-{name}", "--weights", file)
        for refused in (tlkit(*arguments), tlkit(*arguments, "--trust-pickle", other)):
            assert refused.status == 77 and f"--trust-pickle {file}" in refused.err
        assert not mark.exists()
        allowed = tlkit(*arguments, "--trust-pickle", file)
        assert allowed.status == 0, allowed.err
    (tmp_path / "code.pt").write_bytes(saved({"state_dict": network.state_dict(), "x": Canary(mark)}))
    arguments = finetune_arguments(images, tmp_path / "last", "--weights", tmp_path / "code.pt")
    assert tlkit(*arguments, "--trust-pickle", tmp_path / "code.pt").status == 0
    assert mark.exists()  # so the canary of the other tests does sing


def test_trust_is_never_remembered(images: Path, tmp_path: Path, tlkit: Run) -> None:
    """Else a run folder from a stranger could bring its own."""
    file, run = tmp_path / "module.pt", tmp_path / "run"
    torch.save(timm.create_model("test_resnet", num_classes=7), file)
    assert tlkit(*finetune_arguments(images, run, "--weights", file, "--trust-pickle", file)).status == 0
    stored = json.loads((run / "options.json").read_text())
    assert "trust_pickle" not in stored["given"] and "trust_pickle" not in stored["resolved"]
    assert (
        "trust_pickle"
        not in artifact.read_artifact(str(run / "checkpoints" / "last.pt"), "tlkit-checkpoint")["options"]
    )
    for part in stored.values():
        part["trust_pickle"] = str(file)
    (run / "options.json").write_text(json.dumps(stored))
    assert tlkit("resume", run, "--epochs", 8).status == 77
    assert tlkit("predict", run / "checkpoints" / "best.pt", images).status == 77
    assert tlkit("resume", run, "--epochs", 8, "--trust-pickle", file).status == 0
    assert tlkit("predict", run / "checkpoints" / "best.pt", images, "--trust-pickle", file).status == 0


def test_an_exported_module_is_a_model_where_it_is_trusted(artifacts: Path, images: Path, tlkit: Run) -> None:
    full = artifacts / "full.pt"
    expected = tlkit("predict", artifacts / "run", images).out
    assert tlkit("predict", full, images).status == 77
    found = tlkit("predict", full, images, "--trust-pickle", full)
    assert (found.status, found.out) == (0, expected)
    assert tlkit("summary", full, "--trust-pickle", full).status == 0
    assert isinstance(torch.load(full, weights_only=False), nn.Module)  # for others it is a plain module


def test_a_module_that_does_not_describe_itself_is_no_model(images: Path, tmp_path: Path, tlkit: Run) -> None:
    torch.save(timm.create_model("test_resnet", num_classes=3), tmp_path / "plain.pt")
    result = tlkit("predict", tmp_path / "plain.pt", images, "--trust-pickle", tmp_path / "plain.pt")
    assert result.status == 65 and "has no description of classes" in result.err


FAILURES: list[Exception] = [
    pickle.UnpicklingError("GLOBAL os.system was not an allowed global by default"),
    pickle.UnpicklingError("Weights only load failed"), RuntimeError("PytorchStreamReader failed"), EOFError(),
    AttributeError("no such class"), ModuleNotFoundError("no module"), ImportError("no name"), KeyError("storage"),
    IndexError("list"), ValueError("mmap"), TypeError("call"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "start"),
    OSError(5, "Input/output error"), NotImplementedError("form"), AssertionError(), RecursionError("depth"),
    OverflowError("large"), ZeroDivisionError("zero"), BufferError("held"), struct.error("unpack"),
]  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES, ids=lambda error: f"{type(error).__name__}: {error}"[:40])
def test_a_load_that_fails_is_not_tried_in_another_way(
    failure: Exception, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def fail(*arguments: object, **how: Any) -> None:
        calls.append(how)
        raise failure

    monkeypatch.setattr(torch, "load", fail)
    ways = [(as_model, "run/model.pt"), (as_checkpoint, "run/checkpoints/last.pt"), (as_weights, "state_dict.pt")]
    for open_file, name in ways:
        with pytest.raises(DataError):
            open_file(str(artifacts / name))
    assert [how["weights_only"] for how in calls] == [True] * len(ways)


def test_files_that_fail_to_open_are_opened_once_and_as_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    original = torch.load

    def load(*arguments: Any, **how: Any) -> Any:
        calls.append(how)
        return original(*arguments, **how)

    monkeypatch.setattr(torch, "load", load)
    contents = [form(Canary(tmp_path / "it ran")) for form in FORMS.values()]
    contents += [b"", b"PK", b"PK\x03\x04", b"\x80\x02}.", b"\x80\x02.", b"text\n", saved({"a": torch.ones(3)})[:-30]]
    for number, content in enumerate(contents):
        file = tmp_path / f"{number}.pt"
        file.write_bytes(content)
        before = len(calls)
        with pytest.raises((DataError, UnsafeError)):
            load_safely(str(file))
        assert len(calls) <= before + 1
    assert len(contents) >= 20 and all(how["weights_only"] is True for how in calls)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("label", ["checkpoint", "model.pt", "state_dict"])
def test_what_tlkit_writes_opens_with_an_empty_allow_list(label: str, artifacts: Path) -> None:
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        content = torch.load(KINDS[label].file(artifacts), weights_only=True)
    finally:
        torch.serialization.add_safe_globals(before)
    assert_plain(content)


def assert_plain(value: Any) -> None:
    """Tensors and what JSON has, and nothing of a class of its own."""
    if isinstance(value, dict):
        for key, item in value.items():
            assert type(key) in (str, int)
            assert_plain(item)
    elif isinstance(value, (list, tuple)):
        assert type(value) in (list, tuple)
        for item in value:
            assert_plain(item)
    else:
        assert type(value) in (torch.Tensor, int, float, str, bool, type(None)), type(value)


def test_no_command_opens_what_is_no_regular_file(images: Path, tmp_path: Path, tlkit: Run) -> None:
    import os

    for suffix in SUFFIXES:
        os.mkfifo(tmp_path / f"pipe{suffix}")
        for words in (["predict", tmp_path / f"pipe{suffix}", images], ["resume", tmp_path / f"pipe{suffix}"]):
            result = tlkit(*words)
            assert result.status == 65 and "not a regular file" in result.err
        weights = tlkit(*finetune_arguments(images, tmp_path / "new", "--weights", tmp_path / f"pipe{suffix}"))
        assert weights.status == 65
    with pytest.raises(TlkitError):
        as_model("/dev/zero")
