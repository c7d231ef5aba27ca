"""The options of every command, each declared once: its type, default, bounds and help.

The command line derives its flags from these dataclasses, and combinations that make no sense are refused here,
before anything heavy is imported.
"""

from __future__ import annotations

from tlkit.options.export import EXPORT_SUFFIXES, ExportOptions
from tlkit.options.finetune import FinetuneOptions, ResumeOptions
from tlkit.options.inspection import BackbonesOptions, CacheOptions, CheckOptions, DoctorOptions, SummaryOptions
from tlkit.options.monitoring import ReportOptions
from tlkit.options.predict import STANDARD_OUTPUT, EvaluateOptions, PredictOptions
from tlkit.options.ranks import RankOptions
from tlkit.options.tune import TuneOptions

__all__ = [
    "EXPORT_SUFFIXES",
    "STANDARD_OUTPUT",
    "BackbonesOptions",
    "CacheOptions",
    "CheckOptions",
    "DoctorOptions",
    "EvaluateOptions",
    "ExportOptions",
    "FinetuneOptions",
    "PredictOptions",
    "RankOptions",
    "ReportOptions",
    "ResumeOptions",
    "SummaryOptions",
    "TuneOptions",
]
