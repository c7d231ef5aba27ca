"""Suggestions for mistyped commands and options."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Collection
from typing import get_type_hints

from tlkit.errors import UsageError
from tlkit.options.declare import Options, did_you_mean, flag_of
from tlkit.options.help import argument_name, completions_of

COMMAND_HABITS = {
    "train": "finetune", "fit": "finetune", "fine-tune": "finetune", "continue": "resume", "restart": "resume",
    "search": "tune", "hpo": "tune", "sweep": "tune", "infer": "predict", "inference": "predict",
    "classify": "predict", "label": "predict", "test": "evaluate", "eval": "evaluate", "val": "evaluate",
    "validate": "evaluate", "score": "evaluate", "convert": "export", "save": "export", "lint": "check",
    "verify": "check", "models": "backbones", "list": "backbones", "info": "summary", "show": "summary",
    "describe": "summary", "clean": "cache", "env": "doctor", "version": "--version", "help": "--help",
    "plot": "report", "html": "report",
}  # fmt: skip
"""Names of commands in other tools, and the command or option of tlkit."""

MEANT = {
    ("--learning-rate",): "lr",
    ("--weight-decay",): "wd l2",
    ("--batch-size",): "batch bs",
    ("--epochs",): "epoch num-epochs max-epochs n-epochs",
    ("--optimizer",): "opt",
    ("--schedule",): "sched lr-scheduler",
    ("--val", "--split"): "val-split",
    ("--val",): "val-size val-dir test-size validation-split",
    ("MODEL", "--backbone", "NAME_OR_MODEL", "RUN", "CKPT_OR_RUN"): "model",
    ("--backbone", "NAME_OR_MODEL"): "model-name arch architecture net",
    ("RUN", "CKPT_OR_RUN", "MODEL"): "run",
    ("DATA", "--data"): "data-dir dataset data-path",
    ("DATA",): "data",
    ("[PATH]...", "DATA", "MODEL"): "input",
    ("[PATH]...", "DATA"): "source images",
    ("--out",): "output project exp-name",
    ("--out", "--output"): "output-dir out-dir save-dir outdir name",
    ("--output",): "out",
    ("--workers",): "num-workers jobs",
    ("--processes", "--gpus-per-trial", "--device cuda"): "gpus num-gpus",
    ("--processes",): "nproc-per-node",
    ("--device cuda",): "gpu cuda",
    ("--device cpu",): "cpu",
    ("--precision fp16",): "fp16 half",
    ("--precision bf16",): "bf16 amp mixed-precision",
    ("--precision",): "dtype",
    ("--image-size",): "img-size imgsz input-size resolution",
    ("--image-size", "--sizes"): "size",
    ("--weights pretrained", "--weights"): "pretrained",
    ("--weights none",): "no-pretrained",
    ("--unfreeze",): "unfreeze-layers",
    ("tlkit resume CKPT_OR_RUN",): "resume",
    ("MODEL", "RUN", "CKPT_OR_RUN", "NAME_OR_MODEL", "tlkit resume CKPT_OR_RUN"): "checkpoint ckpt",
    ("--patience",): "early-stopping early-stop",
    ("--label-smoothing",): "smoothing",
    ("--augment",): "augmentation aug",
    ("--augment strong",): "auto-augment",
    ("--class-weights",): "class-weight",
    ("--seed",): "random-state random-seed",
    ("--metric",): "monitor",
    ("--keep-checkpoints",): "save-top-k",
    ("--save-every",): "save-interval",
    ("--accumulate",): "grad-accum accumulation-steps gradient-accumulation-steps",
    ("--gradient-checkpointing",): "grad-checkpointing",
    ("--sync-batchnorm",): "sync-bn",
    ("--log tensorboard",): "tensorboard",
    ("--log wandb",): "wandb",
    ("--log",): "logger",
    ("--top-k", "--folds"): "k",
    ("--top-k",): "topk top",
    ("--samples",): "n-trials trials num-samples",
    ("--time-budget",): "timeout",
    ("--folds",): "cv",
    ("--format json", "--format jsonl"): "json",
    ("--format csv",): "csv",
    ("--format onnx",): "onnx",
    ("--overwrite",): "force",
    ("--null",): "null-data print0",
    ("--debug",): "verbose",
    ("--skip-bad",): "ignore-errors skip-errors",
}
"""Replacements, of which the first that the command has is suggested, for names of options in other tools."""

HABITS = {f"--{habit}": meant for meant, habits in MEANT.items() for habit in habits.split()}

ADVICE = {
    "--threshold": ("--top-k", "Filter the probabilities: tlkit predict MODEL PATH | awk -F'\\t' '$3 >= 0.5'"),
    "--dropout": ("--weight-decay", "There is no dropout; to regularize, use --weight-decay or --label-smoothing."),
    "--freeze": ("--unfreeze", "The backbone is frozen by default; --unfreeze trains parts of it."),
    "--freeze-backbone": ("--unfreeze", "The backbone is frozen by default; --unfreeze trains parts of it."),
}
"""Names without a counterpart, and advice for the commands that have the option named first."""


def suggestion(command: str, flag: str, kind: type[Options]) -> str:
    """A hint for an option that a command does not have: Did you mean --learning-rate? Empty if nothing is close."""
    hints = get_type_hints(kind)
    fields = [field for field in dataclasses.fields(kind) if field.name not in kind.HIDDEN]
    values = {flag_of(f.name): completions_of(f, hints[f.name]) for f in fields if not f.metadata.get("positional")}
    arguments = {argument_name(field) for field in fields if field.metadata.get("positional")}
    needed, advice = ADVICE.get(flag, ("", ""))
    if needed in values:
        return advice
    for meant in HABITS.get(flag.replace("_", "-"), ()):
        known, _, value = meant.partition(" ")
        if meant in arguments:
            return f"Give {meant.strip('[].')} without an option name: tlkit {command} {meant}"
        if known == "tlkit" or (known in values and (not value or value in values[known])):
            return f"Did you mean {meant}?"
    close = difflib.get_close_matches(flag.strip("-").replace("_", "-"), sorted(known[2:] for known in values), n=1)
    return f"Did you mean --{close[0]}?" if close else ""


def unknown_command(word: str, commands: Collection[str]) -> UsageError:
    """The error for a word that is not a command, with a suggestion."""
    meant = COMMAND_HABITS.get(word)
    hint = f"Did you mean tlkit {meant}?" if meant else did_you_mean("tlkit", word, commands)
    return UsageError(word, "is not a command", hint)


def applicable(
    hint: str, command: str, commands: Collection[str], options_class: Callable[[str], type[Options]]
) -> list[str]:
    """The lines of a hint without those that name an option which neither the command nor one in the line has."""
    kept = []
    for line in hint.splitlines():
        typed = set(re.findall(r"(?<!\S)--[a-z][a-z-]*", line))
        named = {command, *re.findall(r"\btlkit ([a-z]+)", line)}.intersection(commands) or commands
        unknown = typed.difference(*(flags_of(options_class(name)) for name in named)) if typed else set()
        if not any(unknown & flags_of(options_class(name)) for name in (commands if unknown else ())):
            kept.append(line)
    return kept


def flags_of(kind: type[Options]) -> set[str]:
    """The options of a command, as they are typed."""
    fields = [field for field in dataclasses.fields(kind) if not field.metadata.get("positional")]
    return {flag_of(field.name) for field in fields if field.name not in kind.HIDDEN}
