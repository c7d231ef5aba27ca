"""Every option is shown, read by a command, and checked; bad combinations name their flags."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.options.reads import unread_options
from tlkit import cli, options
from tlkit.data import formats
from tlkit.data.decoders import worker_count
from tlkit.data.header import MAX_PIXELS
from tlkit.errors import UsageError
from tlkit.options import FinetuneOptions
from tlkit.options.data import MORE_FORMATS
from tlkit.options.declare import flag_of

ROOT = Path(__file__).parents[2]
KINDS = {command: cli.options_class(command) for command in cli.COMMANDS}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run([sys.executable, "-m", "tlkit", *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("command", KINDS)
def test_help_shows_every_option(command: str) -> None:
    result = run(command, "--help")
    assert result.returncode == 0
    for field in dataclasses.fields(KINDS[command]):
        if field.name not in KINDS[command].HIDDEN:
            positional = field.metadata.get("positional")
            assert (
                field.metadata.get("metavar") or field.name.upper() if positional else flag_of(field.name)
            ) in result.stdout


def test_a_search_shows_what_it_takes_and_no_more() -> None:
    shown = {line.split()[0] for line in run("tune", "--help").stdout.splitlines() if line.startswith("  --")}
    for field in dataclasses.fields(options.TuneOptions):
        if not field.metadata.get("positional"):
            assert (flag_of(field.name) in shown) == (field.name not in options.TuneOptions.HIDDEN), field.name


@pytest.mark.parametrize("command", KINDS)
def test_every_option_is_read_by_its_command(command: str) -> None:
    assert unread_options(KINDS[command], command, ROOT / "tlkit") == []


OPTIONS_OF_SHINE = """
from __future__ import annotations
from dataclasses import dataclass
from tlkit.options.declare import Options, option

@dataclass(frozen=True, kw_only=True)
class ShineOptions(Options):
    plain: int = option(1, "")
    by_method: int = option(1, "")
    by_property: int = option(1, "")
    in_a_session: int = option(1, "")
    listed: int = option(1, "")
    validated: int = option(1, "")
    by_unused_method: int = option(1, "")
    of_another: int = option(1, "")

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.validated != 3 and self.by_unused_method_too()

    def used(self) -> int:
        return self.by_method + self.inner

    @property
    def inner(self) -> int:
        return self.by_property

    def by_unused_method_too(self) -> int:
        return self.by_unused_method
"""


def test_an_option_that_is_only_validated_counts_as_unread(tmp_path: Path) -> None:
    sources = {
        "options/shine.py": OPTIONS_OF_SHINE,
        "commands/shine.py": "from tlkit.options.shine import ShineOptions\n"
        "def shine(options: ShineOptions):\n    from tlkit.work import work\n    work(options.plain, options.used())\n",
        "work.py": "NAMES = ('listed',)\nclass Session:\n    options: ShineOptions\n"
        "def work(session, other: Other):\n    print(session.options.in_a_session, other.of_another)\n"
        "def copy(options: ShineOptions):\n    return [getattr(options, name) for name in NAMES]\n",
        "elsewhere.py": "def never(options: ShineOptions):\n    return options.validated\n",
    }
    for name, text in sources.items():
        (tmp_path / "tlkit" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tlkit" / name).write_text(text)
    namespace: dict[str, Any] = {"__name__": __name__}
    exec(compile(OPTIONS_OF_SHINE, "shine.py", "exec"), namespace)
    expected = ["validated", "by_unused_method", "of_another"]
    assert unread_options(namespace["ShineOptions"], "shine", tmp_path / "tlkit") == expected


@pytest.mark.parametrize("command", KINDS)
def test_every_command_is_in_the_readme(command: str) -> None:
    assert f"`tlkit {command}" in (ROOT / "README.md").read_text()


def test_options_survive_json() -> None:
    given = FinetuneOptions(data="images", epochs=7, head="mlp", hidden=9)
    assert FinetuneOptions.from_dict({**given.to_dict(), "from_the_future": 1}) == given


def test_options_survive_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a launcher's ranks have the options that it was given."""
    seen: list[FinetuneOptions] = []
    monkeypatch.setattr("tlkit.commands.finetune.finetune", lambda options: seen.append(options) or 0)
    given = FinetuneOptions(data="-images", epochs=7, head="mlp", skip_bad=True, learning_rate=1e-5, val="-1 odd=name")
    assert cli.run(["finetune", *given.command_line()]) == 0
    assert seen == [given]


def test_the_home_folder_is_left_out_of_what_goes_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    given = FinetuneOptions(data="/home/someone/images", weights="/home/someones/w.pth", out="/home/someone")
    portable = given.to_portable_dict()
    assert (portable["data"], portable["weights"], portable["out"]) == ("~/images", given.weights, "~")
    monkeypatch.setenv("HOME", "/Users/other")
    assert FinetuneOptions.from_dict(portable).data == "/Users/other/images"
    monkeypatch.setenv("HOME", "/")
    assert given.to_portable_dict()["data"] == given.data, "a home that holds everything is nobody's"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", "many"),
        ("batch_size", True),
        ("batch_size", "all"),
        ("parallel", "both"),
        ("no_cache", 1),
        ("head", "round"),
        ("head", ["mlp"]),
        ("data", None),
    ],
)
def test_what_was_stored_must_be_of_its_kind(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=flag_of(name)):
        FinetuneOptions.from_dict({"data": "images", name: value})


@pytest.mark.parametrize(
    ("values", "flags"),
    [
        ({"hidden": 8}, ["--hidden", "--head"]),
        ({"head": "stack", "weights": "none"}, ["--head stack", "--weights"]),
        ({"val": "1.5"}, ["--val"]),
        ({"val": "0"}, ["--val"]),
        ({"val": "nan"}, ["--val"]),
        ({"epochs": 0}, ["--epochs"]),
        ({"label_smoothing": 2.0}, ["--label-smoothing"]),
        ({"learning_rate": float("nan")}, ["--learning-rate"]),
        ({"formats": "AVIF,EPS"}, ["--formats"]),
        ({"float_range": "0"}, ["--float-range"]),
        ({"float_range": "1,1"}, ["--float-range"]),
        ({"float_range": "0,inf"}, ["--float-range"]),
        ({"max_bad": 1.5}, ["--max-bad"]),
        ({"max_bad": 0.5}, ["--max-bad", "--skip-bad"]),
        ({"log": ["none", "wandb"]}, ["--log none", "--log wandb"]),
        ({"log": ["paper"]}, ["--log"]),
        ({"max_pixels": 0}, ["--max-pixels"]),
        ({"learning_rate": float("inf")}, ["--learning-rate"]),
        ({"save_every": -1.0}, ["--save-every"]),
        ({"batch_size": 0}, ["--batch-size"]),
        ({"batch_size": 4, "accumulate": 5}, ["--accumulate", "--batch-size"]),
        ({"gradient_checkpointing": True}, ["--gradient-checkpointing", "--unfreeze"]),
        ({"stages": 2}, ["--stages", "--parallel"]),
        ({"parallel": "data", "split_at": "layer3"}, ["--split-at", "--parallel"]),
        ({"device": "cuda:0,cuda:1"}, ["--device", "--parallel"]),
        ({"parallel": "model", "device": "cuda:0"}, ["--parallel model", "--device"]),
        ({"parallel": "data", "device": "cpu"}, ["--parallel data", "--device"]),
        ({"parallel": "data", "processes": 2}, ["--parallel data", "--processes"]),
        ({"parallel": "data", "device": "cpu,cpu"}, ["--parallel data", "--device"]),
        ({"parallel": "model", "device": "cpu,cpu", "stages": 3}, ["--stages", "--device"]),
        ({"parallel": "model", "device": "cpu,cpu", "split_at": "a,b"}, ["--split-at", "--device"]),
        ({"parallel": "model", "stages": 2, "split_at": "a,b"}, ["--split-at", "--stages"]),
    ],
)
def test_bad_values_are_refused_by_name(values: dict[str, object], flags: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        FinetuneOptions(data="images", **values)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    assert all(flag in str(caught.value) for flag in flags)


def test_a_validation_folder_is_not_a_number() -> None:
    assert FinetuneOptions(data="images", val="other/val").validation() == "other/val"
    assert FinetuneOptions(data="images", val="0.3").validation() == 0.3


@pytest.mark.parametrize(
    ("arguments", "first_line"),
    [
        (["finetune"], "tlkit finetune: DATA: is missing"),
        (["finetune", "x", "--epochs", "many"], "tlkit finetune: --epochs: 'many' is not a whole number"),
        (["finetune", "x", "--epochs", "1.5"], "tlkit finetune: --epochs: '1.5' is not a whole number"),
        (["finetune", "x", "--epochs", "0"], "tlkit finetune: --epochs: 0 is too small; expected at least 1"),
        (["finetune", "x", "--learning-rate", "fast"], "tlkit finetune: --learning-rate: 'fast' is not a number"),
        (
            ["finetune", "x", "--batch-size", "all"],
            "tlkit finetune: --batch-size: 'all' is not a whole number or auto",
        ),
        (["finetune", "x", "--batch-size", "0"], "tlkit finetune: --batch-size: 0 is too small; expected at least 1"),
        (
            ["predict", "m", "--device", "cpu,cpu"],
            "tlkit predict: --device: cpu,cpu are several devices; add --parallel",
        ),
        (
            ["finetune", "x", "--head", "round"],
            "tlkit finetune: --head: 'round' is not a valid value; expected linear, mlp",
        ),
        (["predict"], "tlkit predict: MODEL: is missing"),
        (["finetune", "x", "--no-such-flag"], "tlkit finetune: --no-such-flag: is not an option of finetune"),
        (["fientune", "x"], "tlkit: fientune: is not a command\nDid you mean tlkit finetune?"),
        (["finetune", "x", "y"], "tlkit finetune: y: is an unexpected argument; finetune takes DATA"),
        (["finetune", "x", "--epochs"], "tlkit finetune: --epochs: needs a value"),
        (["finetune", "x", "--strict=yes"], "tlkit finetune: --strict: takes no value"),
        (["--lr"], "tlkit: --lr: is not an option of tlkit"),
    ],
)
def test_usage_errors_are_one_clear_line(arguments: list[str], first_line: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(first_line)
    assert "Traceback" not in result.stderr


def test_help_and_usage_errors_import_nothing_heavy() -> None:
    for arguments in (["--help"], ["finetune", "--help"], ["finetune", "x", "--epochs", "many"], ["nope"]):
        code = f"import sys; from tlkit.cli import run; run({arguments!r}); print(*sys.modules)"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "tlkit.options" in loaded.stdout.split()
        assert not {"torch", "numpy", "PIL", "tqdm", "pydantic"} & set(loaded.stdout.split())


def test_values_are_what_their_declaration_says() -> None:
    typed = {"data": "5", "epochs": "7", "learning_rate": "1e-3", "head": "mlp", "no_cache": True, "out": None}
    options = FinetuneOptions.from_command_line(typed)
    assert FinetuneOptions.from_command_line({"data": "x", "batch_size": "auto"}).batch_size == "auto"
    assert FinetuneOptions.from_command_line({"data": "x", "batch_size": "8"}).images_per_step() == 8
    assert options == FinetuneOptions(data="5", epochs=7, learning_rate=1e-3, head="mlp", no_cache=True)
    assert (type(options.epochs), type(options.learning_rate), type(options.data)) == (int, float, str)


def test_options_and_decoder_agree() -> None:
    assert FinetuneOptions(data="images").max_pixels == MAX_PIXELS
    assert MORE_FORMATS == formats.MORE_FORMATS


def test_worker_count() -> None:
    assert worker_count(0) == 0
    assert worker_count(None) >= 1


def test_going_on_never_replaces_what_is_there() -> None:
    with pytest.raises(UsageError, match=r"--resume-from 5: cannot be combined with --output out\.jsonl"):
        options.PredictOptions(model="m", resume_from=5, output="out.jsonl")
    for output in options.STANDARD_OUTPUT:
        assert options.PredictOptions(model="m", resume_from=5, output=output).resume_from == 5
    assert options.PredictOptions(model="m", output="out.jsonl").output == "out.jsonl"


@pytest.mark.parametrize("size", ["9" * 400, "1.2.3", "x", ""])
def test_what_is_no_size_is_a_usage_error(size: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        FinetuneOptions(data="x", cache_limit=size)
