"""Suggestions for mistyped commands and options."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection
from typing import get_type_hints

from tlkit.errors import UsageError
from tlkit.options.declare import Options, flag_of
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

HABITS: dict[str, tuple[str, ...]] = {
    "--lr": ("--learning-rate",),
    "--wd": ("--weight-decay",),
    "--l2": ("--weight-decay",),
    "--batch": ("--batch-size",),
    "--bs": ("--batch-size",),
    "--epoch": ("--epochs",),
    "--num-epochs": ("--epochs",),
    "--max-epochs": ("--epochs",),
    "--n-epochs": ("--epochs",),
    "--opt": ("--optimizer",),
    "--sched": ("--schedule",),
    "--lr-scheduler": ("--schedule",),
    "--val-split": ("--val", "--split"),
    "--val-size": ("--val",),
    "--val-dir": ("--val",),
    "--test-size": ("--val",),
    "--validation-split": ("--val",),
    "--model": ("MODEL", "--backbone", "NAME_OR_MODEL", "RUN", "CKPT_OR_RUN"),
    "--model-name": ("--backbone", "NAME_OR_MODEL"),
    "--arch": ("--backbone", "NAME_OR_MODEL"),
    "--architecture": ("--backbone", "NAME_OR_MODEL"),
    "--net": ("--backbone", "NAME_OR_MODEL"),
    "--run": ("RUN", "CKPT_OR_RUN", "MODEL"),
    "--data-dir": ("DATA", "--data"),
    "--dataset": ("DATA", "--data"),
    "--data-path": ("DATA", "--data"),
    "--data": ("DATA",),
    "--input": ("[PATH]...", "DATA", "MODEL"),
    "--source": ("[PATH]...", "DATA"),
    "--images": ("[PATH]...", "DATA"),
    "--output": ("--out",),
    "--output-dir": ("--out", "--output"),
    "--out-dir": ("--out", "--output"),
    "--save-dir": ("--out", "--output"),
    "--outdir": ("--out", "--output"),
    "--out": ("--output",),
    "--name": ("--out", "--output"),
    "--project": ("--out",),
    "--exp-name": ("--out",),
    "--num-workers": ("--workers",),
    "--jobs": ("--workers",),
    "--gpus": ("--processes", "--gpus-per-trial", "--device cuda"),
    "--nproc-per-node": ("--processes",),
    "--num-gpus": ("--processes", "--gpus-per-trial", "--device cuda"),
    "--gpu": ("--device cuda",),
    "--cuda": ("--device cuda",),
    "--cpu": ("--device cpu",),
    "--fp16": ("--precision fp16",),
    "--half": ("--precision fp16",),
    "--bf16": ("--precision bf16",),
    "--amp": ("--precision bf16",),
    "--mixed-precision": ("--precision bf16",),
    "--dtype": ("--precision",),
    "--img-size": ("--image-size",),
    "--imgsz": ("--image-size",),
    "--input-size": ("--image-size",),
    "--resolution": ("--image-size",),
    "--size": ("--image-size", "--sizes"),
    "--pretrained": ("--weights pretrained", "--weights"),
    "--no-pretrained": ("--weights none",),
    "--unfreeze-layers": ("--unfreeze",),
    "--resume": ("tlkit resume CKPT_OR_RUN",),
    "--checkpoint": ("MODEL", "RUN", "CKPT_OR_RUN", "NAME_OR_MODEL", "tlkit resume CKPT_OR_RUN"),
    "--ckpt": ("MODEL", "RUN", "CKPT_OR_RUN", "NAME_OR_MODEL", "tlkit resume CKPT_OR_RUN"),
    "--early-stopping": ("--patience",),
    "--early-stop": ("--patience",),
    "--smoothing": ("--label-smoothing",),
    "--augmentation": ("--augment",),
    "--aug": ("--augment",),
    "--auto-augment": ("--augment strong",),
    "--class-weight": ("--class-weights",),
    "--random-state": ("--seed",),
    "--random-seed": ("--seed",),
    "--monitor": ("--metric",),
    "--save-top-k": ("--keep-checkpoints",),
    "--save-interval": ("--save-every",),
    "--grad-accum": ("--accumulate",),
    "--accumulation-steps": ("--accumulate",),
    "--gradient-accumulation-steps": ("--accumulate",),
    "--grad-checkpointing": ("--gradient-checkpointing",),
    "--sync-bn": ("--sync-batchnorm",),
    "--tensorboard": ("--log tensorboard",),
    "--wandb": ("--log wandb",),
    "--logger": ("--log",),
    "--k": ("--top-k", "--folds"),
    "--topk": ("--top-k",),
    "--top": ("--top-k",),
    "--n-trials": ("--samples",),
    "--trials": ("--samples",),
    "--num-samples": ("--samples",),
    "--timeout": ("--time-budget",),
    "--cv": ("--folds",),
    "--json": ("--format json", "--format jsonl"),
    "--csv": ("--format csv",),
    "--onnx": ("--format onnx",),
    "--force": ("--overwrite",),
    "--null-data": ("--null",),
    "--print0": ("--null",),
    "--verbose": ("--debug",),
    "--ignore-errors": ("--skip-bad",),
    "--skip-errors": ("--skip-bad",),
}
"""Names of options in other tools, and replacements: the first one that the command has is suggested."""

ADVICE = {
    "--threshold": ("--top-k", "Filter the probabilities: tlkit predict MODEL PATH | awk -F'\\t' '$3 >= 0.5'"),
    "--dropout": ("--weight-decay", "There is no dropout; to regularize, use --weight-decay or --label-smoothing."),
    "--freeze": ("--unfreeze", "The backbone is frozen by default; --unfreeze trains parts of it."),
    "--freeze-backbone": ("--unfreeze", "The backbone is frozen by default; --unfreeze trains parts of it."),
}
"""Names without a counterpart, and advice for the commands that have the option named first."""


def unknown_option(command: str, flag: str, kind: type[Options]) -> UsageError:
    """The error for an option that a command does not have, with a suggestion that it has."""
    return UsageError(flag, f"is not an option of {command}", suggestion(command, flag, kind))


def suggestion(command: str, flag: str, kind: type[Options]) -> str:
    """Did you mean --learning-rate? Empty if nothing is close."""
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
    return close_match(flag.strip("-").replace("_", "-"), {known.strip("-") for known in values}, "--")


def unknown_command(word: str, commands: Collection[str]) -> UsageError:
    """The error for a word that is not a command, with a suggestion."""
    meant = COMMAND_HABITS.get(word)
    hint = f"Did you mean tlkit {meant}?" if meant else close_match(word, commands, "tlkit ")
    return UsageError(word, "is not a command", hint)


def close_match(word: str, known: Collection[str], prefix: str = "") -> str:
    """Did you mean ...? Empty if nothing is close."""
    close = difflib.get_close_matches(word, sorted(known), n=1)
    return f"Did you mean {prefix}{close[0]}?" if close else ""
