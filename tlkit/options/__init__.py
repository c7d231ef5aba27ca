"""The options of every command, each declared once: type, default, limits and help.

The command line is built from these dataclasses. Invalid combinations are refused here, before torch is imported.

Files:
    declare.py     how an option is declared, converted and checked; old names (table RENAMED)
    help.py        the text of --help: groups, defaults, ranges, examples
    suggest.py     what a mistyped option or command meant (tables HABITS, COMMAND_HABITS)
    finetune.py    options of finetune and resume
    tune.py        options of tune
    predict.py     options of predict and evaluate
    export.py      options of export
    inspection.py  options of check, backbones, fetch, summary, cache and doctor
    data.py        shared: images, validation split, bad files
    network.py     shared: backbone, weights, head
    devices.py     shared: device, precision, several devices
    ranks.py       shared: number of processes and their timeouts
    models.py      shared: model files and --trust-pickle
    monitoring.py  shared: --log; options of report
    space.py       the options that a search varies
    dimensions.py  the kinds of values of a searched option (table KINDS)

May import: errors.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tlkit.options.export import EXPORT_SUFFIXES, ExportOptions
    from tlkit.options.finetune import FinetuneOptions, ResumeOptions
    from tlkit.options.inspection import (
        BackbonesOptions,
        CacheOptions,
        CheckOptions,
        DoctorOptions,
        FetchOptions,
        SummaryOptions,
    )
    from tlkit.options.monitoring import ReportOptions
    from tlkit.options.predict import STANDARD_OUTPUT, EvaluateOptions, PredictOptions
    from tlkit.options.ranks import RankOptions
    from tlkit.options.tune import TuneOptions

__all__ = [
    "EXPORT_SUFFIXES", "STANDARD_OUTPUT", "BackbonesOptions", "CacheOptions", "CheckOptions", "DoctorOptions",
    "EvaluateOptions", "ExportOptions", "FetchOptions", "FinetuneOptions", "PredictOptions", "RankOptions",
    "ReportOptions", "ResumeOptions", "SummaryOptions", "TuneOptions",
]  # fmt: skip

ELSEWHERE = {
    "EXPORT_SUFFIXES": "export", "STANDARD_OUTPUT": "predict", "EvaluateOptions": "predict",
    "ResumeOptions": "finetune", "ReportOptions": "monitoring", "RankOptions": "ranks",
    "BackbonesOptions": "inspection", "CacheOptions": "inspection", "CheckOptions": "inspection",
    "DoctorOptions": "inspection", "FetchOptions": "inspection", "SummaryOptions": "inspection",
}  # fmt: skip
"""The file in which a name is defined, if not in that of its own command."""


def __getattr__(name: str) -> object:
    """Import the options of a command when they are first used: help and usage errors need one command's only."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = ELSEWHERE.get(name) or name.removesuffix("Options").lower()
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
