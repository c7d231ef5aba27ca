"""Every option is shown, read by a command, and checked; bad combinations name their flags."""

from __future__ import annotations

import ast
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tlkit import cli, options
from tlkit.data import formats
from tlkit.data.decode import MAX_PIXELS
from tlkit.data.decoders import worker_count
from tlkit.errors import UsageError
from tlkit.options import FinetuneOptions
from tlkit.options.data import MORE_FORMATS
from tlkit.options.declare import Options, flag_of

ROOT = Path(__file__).parents[2]
KINDS = {kind.__name__.removesuffix("Options").lower(): kind for kind in Options.__subclasses__()}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run([sys.executable, "-m", "tlkit", *arguments], capture_output=True, text=True, env=environment)


def options_read(file: Path) -> set[str]:
    """The attributes that a file takes from an options object, whatever it calls it; and, for names that are copied
    one by one, the strings it holds."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            if owner in ("options", "resolved", "stored"):
                names.add(node.attr)
        if file.stem == "resume" and isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return names


@pytest.mark.parametrize("command", KINDS)
def test_help_shows_every_option(command: str) -> None:
    result = run(command, "--help")
    assert result.returncode == 0
    for field in dataclasses.fields(KINDS[command]):
        shown = field.name.upper() if field.metadata.get("positional") else flag_of(field.name)
        assert (field.metadata.get("metavar") or shown) in result.stdout
        assert shown in result.stdout or field.metadata.get("positional")


def test_a_search_shows_what_it_takes_and_no_more() -> None:
    shown = {line.split()[0] for line in run("tune", "--help").stdout.splitlines() if line.startswith("  --")}
    for field in dataclasses.fields(options.TuneOptions):
        if not field.metadata.get("positional"):
            assert (flag_of(field.name) in shown) == (field.name not in options.TuneOptions.HIDDEN), field.name


SHARED = {
    "finetune": (
        "model/build",
        "runs/batches",
        "data/bad_images",
        "distributed/join",
        "runs/setup",
        "data/scan",
        "runs/train",
        "runs/train_loop",
        "monitoring/run",
    ),
    "resume": ("runs/resume", "runs/reopen", "distributed/launch", "distributed/join"),
    "evaluate": ("distributed/join",),
    "check": ("data/bad_images", "data/scan"),
    "report": ("reports/gather",),
}
"""Files that a command hands its options to."""


@pytest.mark.parametrize("command", KINDS)
def test_every_option_is_read_by_its_command(command: str) -> None:
    files = [ROOT / "tlkit" / f"{name}.py" for name in (f"commands/{command}", *SHARED.get(command, ()))]
    read = set().union(*map(options_read, files)) | checked_by_itself(KINDS[command])
    read |= {"debug"}  # the command line's own
    assert [field.name for field in dataclasses.fields(KINDS[command]) if field.name not in read] == []


def checked_by_itself(kind: type[Options]) -> set[str]:
    """What methods of an options class and of what it inherits, which commands call, read of it."""
    sources = [file.read_text() for file in (ROOT / "tlkit" / "options").glob("*.py")]
    names = {parent.__name__ for parent in kind.__mro__}
    bodies = [
        n for source in sources for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name in names
    ]
    functions = [node for body in bodies for node in body.body if isinstance(node, ast.FunctionDef)]
    methods = [node for node in functions if node.name != "__post_init__"]
    return {
        node.attr
        for method in methods
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "self"
    }


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
        (["finetune", "x", "--epochs", "0"], "tlkit finetune: --epochs: 0 is too small; the smallest is 1"),
        (["finetune", "x", "--learning-rate", "fast"], "tlkit finetune: --learning-rate: 'fast' is not a number"),
        (
            ["finetune", "x", "--batch-size", "all"],
            "tlkit finetune: --batch-size: 'all' is not a whole number, nor auto",
        ),
        (["finetune", "x", "--batch-size", "0"], "tlkit finetune: --batch-size: 0 is too small; the smallest is 1"),
        (["predict", "m", "--device", "cpu,cpu"], "tlkit predict: --device: cpu,cpu are several devices, which need"),
        (["finetune", "x", "--head", "round"], "tlkit finetune: --head: 'round' is not known; expected linear, mlp"),
        (["predict"], "tlkit predict: MODEL: is missing"),
        (["finetune", "x", "--no-such-flag"], "tlkit finetune: usage: "),
        (["fientune", "x"], "tlkit: usage: "),
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
    with pytest.raises(UsageError, match=r"--resume-from 5: does not go with --output out\.jsonl"):
        options.PredictOptions(model="m", resume_from=5, output="out.jsonl")
    for output in options.STANDARD_OUTPUT:
        assert options.PredictOptions(model="m", resume_from=5, output=output).resume_from == 5
    assert options.PredictOptions(model="m", output="out.jsonl").output == "out.jsonl"


@pytest.mark.parametrize("size", ["9" * 400, "1.2.3", "x", ""])
def test_what_is_no_size_is_a_usage_error(size: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        FinetuneOptions(data="x", cache_limit=size)
