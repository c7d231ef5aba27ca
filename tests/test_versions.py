"""Libraries that are too old to be safe are refused before they open a file."""

from __future__ import annotations

import importlib.metadata
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import Run
from tlkit import versions
from tlkit.errors import UnavailableError
from tlkit.versions import FLOORS, numbers_of, require_floor, version


def test_the_floors_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["onnx"]]
    for package, floor in FLOORS.items():
        assert f"{package}>={floor}" in [requirement.partition(",")[0] for requirement in asked]


@pytest.mark.parametrize("text", ["2.9.1", "2.9.1+cu126", "1.13.0a0+gitabc", "2", "2.9.9.9"])
def test_an_old_version_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "version", lambda package: text)
    with pytest.raises(UnavailableError, match=r"2\.10 or newer") as raised:
        require_floor("torch")
    assert raised.value.exit_code == 69 and "pip install 'torch>=2.10'" in raised.value.hint


@pytest.mark.parametrize("text", ["2.10", "2.10.0+cpu", "2.15.0.dev20261101", "3.0"])
def test_others_are_not(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "version", lambda package: text)
    require_floor("torch")


def test_a_package_that_is_missing_is_somebody_elses_to_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "version", lambda package: None)
    require_floor(*FLOORS)


def test_versions_are_those_that_python_knows() -> None:
    for package in (*FLOORS, "tlkit"):
        assert version(package) == importlib.metadata.version(package)
    assert version("no-such-package") is None


def test_a_package_is_found_where_python_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, name in (("first", "Torch-1.2.dist-info"), ("second", "torch-9.dist-info")):
        (tmp_path / folder / name).mkdir(parents=True)
        (tmp_path / folder / "torch_other-3.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / name) for name in ("missing", "first", "second")])
    assert version("torch") == "1.2"


def test_numbers() -> None:
    assert numbers_of("12.3.0rc1+local") == (12, 3, 0)
    assert numbers_of("") == ()


@pytest.mark.parametrize(
    "words",
    [["finetune", "x"], ["resume", "x"], ["predict", "x", "y"], ["evaluate", "x", "y"], ["export", "x", "-o", "z"],
     ["summary", "x"]],
)  # fmt: skip
@pytest.mark.parametrize("package", ["torch", "pillow"])
def test_every_command_that_opens_files_looks(
    package: str, words: list[str], tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "version", lambda name: "1.0" if name == package else "99.0")
    result = tlkit(*words)
    assert (result.status, result.out) == (69, "")
    assert result.err.startswith(f"tlkit {words[0]}: {package}: version 1.0 has known security holes")


def test_an_old_onnx_writes_no_file(
    finished_run: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "version", lambda name: "1.20.1" if name == "onnx" else "99.0")
    result = tlkit("export", finished_run, "--format", "onnx", "-o", tmp_path / "m.onnx")
    assert result.status == 69 and "pip install 'onnx>=1.21'" in result.err
    assert not list(tmp_path.iterdir())
    assert tlkit("export", finished_run, "-o", tmp_path / "m.pt").status == 0
