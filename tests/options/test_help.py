"""--help in groups, with every default; suggestions for mistyped names; completion in the shell."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from tests.conftest import command
from tlkit import cli
from tlkit.errors import UsageError
from tlkit.options import FinetuneOptions, help, suggest
from tlkit.options.declare import GROUPS, RENAMED, Options, flag_of

KINDS = {name: cli.options_class(name) for name in cli.COMMANDS}
OPTIONS = [
    (name, field)
    for name, kind in KINDS.items()
    for field in dataclasses.fields(kind)
    if field.name not in kind.HIDDEN and not field.metadata.get("positional")
]
EXAMPLES = [line for kind in KINDS.values() for line in kind.EXAMPLES]
PLACEHOLDERS = {"N", "FLOAT", "FILE", "DIR", "NAME", "KIND", "VALUES"}


def page(*words: str) -> str:
    result = subprocess.run(command(*words), capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return result.stdout


@pytest.mark.parametrize("name", KINDS)
def test_help_has_groups_in_order_and_fits_into_80_columns(name: str) -> None:
    text = page(name, "--help")
    titles = re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE)
    order = ["Arguments", *GROUPS, "Examples"]
    assert titles == sorted(titles, key=order.index) and len(set(titles)) == len(titles)
    assert text == page(name, "-h")
    before_examples = text.partition("Examples:")[0]
    assert max(map(len, before_examples.splitlines())) <= 80
    assert all(line.count("[") == line.count("]") for line in before_examples.splitlines()), "a note is split"
    assert 2 <= len(KINDS[name].EXAMPLES) <= 4


def test_finetune_has_the_common_options_first() -> None:
    groups = help.groups_of(FinetuneOptions)
    assert list(groups) == [
        "Arguments", "Common", "Model", "Training", "Data checks", "Speed and memory", "Checkpoints and logging",
        "Several devices", "Other",
    ]  # fmt: skip
    assert [row[0].split()[0] for row in groups["Common"]] == [flag_of(name) for name in FinetuneOptions.COMMON]


@pytest.mark.parametrize(("name", "field"), OPTIONS, ids=lambda value: str(getattr(value, "name", value)))
def test_each_option_is_one_line_with_its_default(name: str, field: dataclasses.Field[object]) -> None:
    described = help.describe(field)
    assert len(described) <= 80 and not field.metadata["help"].endswith(".")
    assert ("[default: ".replace(" ", help.GLUE) in described) == (not isinstance(field.default, bool))
    metavar = help.metavar_of(field, get_type_hints(KINDS[name])[field.name])
    assert set(re.findall(r"\b[A-Z]\w*", metavar)) <= PLACEHOLDERS
    assert (metavar == "") == isinstance(field.default, bool)


def test_the_program_alone_prints_its_help() -> None:
    assert page() == page("--help") == page("-h")
    for name, entry in cli.COMMANDS.items():
        assert f"  {name} " in page() and entry.summary in page()


@pytest.mark.parametrize("line", EXAMPLES)
def test_examples_can_be_typed(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Options] = []
    monkeypatch.setattr(cli, "execute", lambda name, options: seen.append(options) or 0)
    words = shlex.split(re.sub(r"^.*\| (?=tlkit)", "", line).partition(" | ")[0].partition(" > ")[0])
    assert words[0] == "tlkit" and cli.run(words[1:]) == 0
    assert isinstance(seen[0], KINDS[words[1]])


@pytest.mark.parametrize(
    ("name", "flag", "hint"),
    [
        ("finetune", "--lr", "Did you mean --learning-rate?"),
        ("finetune", "--learning_rate", "Did you mean --learning-rate?"),
        ("finetune", "--leaning-rate", "Did you mean --learning-rate?"),
        ("finetune", "--batch", "Did you mean --batch-size?"),
        ("predict", "--bs", "Did you mean --batch-size?"),
        ("finetune", "--val-split", "Did you mean --val?"),
        ("evaluate", "--val-split", "Did you mean --split?"),
        ("finetune", "--model", "Did you mean --backbone?"),
        ("predict", "--model", "Give MODEL without an option name: tlkit predict MODEL"),
        ("finetune", "--output-dir", "Did you mean --out?"),
        ("export", "--out", "Did you mean --output?"),
        ("finetune", "--num-workers", "Did you mean --workers?"),
        ("finetune", "--gpus", "Did you mean --processes?"),
        ("tune", "--gpus", "Did you mean --gpus-per-trial?"),
        ("predict", "--gpus", "Did you mean --device cuda?"),
        ("finetune", "--fp16", "Did you mean --precision fp16?"),
        ("finetune", "--pretrained", "Did you mean --weights pretrained?"),
        ("finetune", "--freeze", "The backbone is frozen by default; --unfreeze trains parts of it."),
        ("finetune", "--resume", "Did you mean tlkit resume CKPT_OR_RUN?"),
        ("finetune", "--early-stopping", "Did you mean --patience?"),
        ("predict", "--topk", "Did you mean --top-k?"),
        ("cache", "--lr", ""),
        ("doctor", "--xyz", ""),
    ],
)
def test_names_of_other_tools_are_understood(name: str, flag: str, hint: str) -> None:
    assert suggest.suggestion(name, flag, KINDS[name]) == hint


def test_suggestions_exist_for_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "execute", lambda name, options: 0)
    for name, kind in KINDS.items():
        flags = {flag_of(field.name) for field in dataclasses.fields(kind) if field.name not in kind.HIDDEN}
        for habit in {*suggest.HABITS, *suggest.ADVICE} - flags - {flag_of(old) for old in RENAMED}:
            hint = suggest.suggestion(name, habit, kind)
            assert set(re.findall(r"--[a-z-]+", hint)) <= flags, (name, habit)
            meant = re.fullmatch(r"Did you mean (--.+)\?", hint)
            if meant and " " in meant[1]:
                flag, value = meant[1].split()
                field = flag[2:].replace("-", "_")
                kind.from_command_line(
                    {**dict.fromkeys(required(kind), "x"), **extra(name), field: as_typed(value, field)}
                )


def required(kind: type[Options]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]


def extra(name: str) -> dict[str, str]:
    return {"export": {"output": "x.onnx"}, "tune": {"data": "x"}}.get(name, {})


def as_typed(value: str, field: str) -> str | list[str]:
    return [value] if field == "log" else value


def test_every_habit_is_of_use_somewhere() -> None:
    for habit in suggest.HABITS:
        flags_differ = [name for name, kind in KINDS.items() if flag_of(habit[2:]) not in map(flag_of, fields_of(kind))]
        assert any(suggest.suggestion(name, habit, KINDS[name]) for name in flags_differ), habit
    for meant in suggest.COMMAND_HABITS.values():
        assert meant in cli.COMMANDS or meant.startswith("--")
    assert not set(suggest.COMMAND_HABITS) & set(cli.COMMANDS)


def fields_of(kind: type[Options]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind) if not field.metadata.get("positional")]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["train", "x"], "Did you mean tlkit finetune?"),
        (["predcit", "x"], "Did you mean tlkit predict?"),
        (["finetune", "x", "--optimizer", "adm"], "Did you mean --optimizer adamw?"),
        (["finetune", "x", "--batch-size", "Auto"], "Did you mean --batch-size auto?"),
        (["finetune", "x", "--log", "tensorbord"], "Did you mean --log tensorboard?"),
        (["finetune", "x", "--lr", "1"], "Did you mean --learning-rate?"),
        (["finetune", "--epochs"], "Try 'tlkit finetune --help'."),
        (["qqq"], "Try 'tlkit --help'."),
    ],
)
def test_a_usage_error_ends_with_a_hint(words: list[str], hint: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(words) == 2
    assert capfd.readouterr().err.splitlines()[1:] == [hint]


def test_an_option_that_was_renamed_keeps_its_old_name(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[FinetuneOptions] = []
    monkeypatch.setattr("tlkit.commands.finetune.finetune", lambda options: seen.append(options) or 0)
    assert cli.run(["finetune", "x", "--keep", "7"]) == cli.run(["finetune", "x", "--keep-checkpoints=7"]) == 0
    assert [options.keep_checkpoints for options in seen] == [7, 7]
    assert FinetuneOptions.from_dict({"data": "x", "keep": 7}) == seen[0]
    with pytest.raises(UsageError, match="--keep-checkpoints"):
        FinetuneOptions.from_dict({"data": "x", "keep": "many"})
    for old, new in RENAMED.items():
        assert old not in fields_of(FinetuneOptions) and new in fields_of(FinetuneOptions)
    assert "--keep " not in page("finetune", "--help")


def complete(words: str, shell: str = "bash", **more: str) -> list[str]:
    code = "import sys; from tlkit.cli import run; s = run([]); print(*sys.modules, file=sys.stderr); sys.exit(s)"
    index = len(words.split(" ")) - 1
    environment = {"_TLKIT_COMPLETE": f"complete_{shell}", "COMP_WORDS": words, "COMP_CWORD": str(index)}
    environment["_TYPER_COMPLETE_ARGS"] = words
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment, **more}
    )
    assert not {"torch", "numpy", "pydantic"} & set(result.stderr.split())
    return result.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("tlkit fi", ["finetune"]),
        ("tlkit ", list(cli.COMMANDS)),
        ("tlkit --ver", ["--version"]),
        ("tlkit finetune --learn", ["--learning-rate"]),
        ("tlkit finetune photos --learn", ["--learning-rate"]),
        ("tlkit finetune photos --optimizer ", ["adamw", "sgd"]),
        ("tlkit finetune photos --optimizer=s", ["sgd"]),
        ("tlkit finetune --weights pre", ["pretrained"]),
        ("tlkit resume run --parallel m", ["model"]),
        ("tlkit predict run --top", ["--top-k"]),
        ("tlkit finetune photos --epochs ", []),
    ],
)
def test_bash_completes(words: str, completions: list[str]) -> None:
    assert [line for line in complete(words) if line] == completions


def test_zsh_and_fish_complete() -> None:
    assert '"finetune":"Train a new classifier on a pretrained backbone"' in complete("tlkit fine", "zsh")[0]
    assert complete("tlkit finetune --optimizer ", "zsh")[1:] == ['"sgd"))\'']
    assert complete("tlkit pre", "fish", _TYPER_COMPLETE_FISH_ACTION="get-args") == [
        "predict\tLabel images: one record per image, in input order"
    ]


def test_completion_is_installed_for_the_current_shell(tmp_path: Path) -> None:
    line = shlex.join([*command("--install-completion")])
    environment = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run(["bash", "-c", f"{line}; true"], env=environment, check=True, capture_output=True)
    script = (tmp_path / ".bash_completions" / "tlkit.sh").read_text()
    assert "complete_bash" in script and "tlkit.sh" in (tmp_path / ".bashrc").read_text()
    shown = subprocess.run(["bash", "-c", f"{line.replace('install', 'show')}; true"], capture_output=True, text=True)
    assert shown.stdout.strip() == script.strip()


def test_only_typers_public_names_are_used() -> None:
    text = Path(cli.__file__).read_text()
    assert re.findall(r"typer\._\w+|\b(?!os\b)\w+\._(?!_)\w+", text) == []
    assert set(re.findall(r"from (typer\S*) import", text)) == {"typer.core", "typer.completion"}
