"""Options of predict and evaluate."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal

from tlkit.errors import UsageError
from tlkit.options.data import ImageOptions, TableOptions, is_table
from tlkit.options.declare import Options, argument, option
from tlkit.options.devices import DeviceOptions
from tlkit.options.models import ModelOptions
from tlkit.options.ranks import PROCESSES, RankOptions, check_ranks

STANDARD_OUTPUT = (None, "-", "/dev/stdout")
"""Values of predict's --output that mean standard output."""


@dataclass(frozen=True, kw_only=True)
class InferenceOptions(ImageOptions, TableOptions, DeviceOptions, ModelOptions, Options):
    """Options of the commands that run a model over images."""

    model: str = argument("Run folder, checkpoint, model.pt or export (safetensors, timm, onnx, .pt2)")
    batch_size: int = option(32, "Images per forward pass", group="Common", minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.device_spec()


@dataclass(frozen=True, kw_only=True)
class PredictOptions(InferenceOptions):
    """tlkit predict"""

    COMMON = ("format", "output", "top_k", "batch_size", "device")
    EXAMPLES = (
        "tlkit predict runs/flowers photo.jpg",
        "tlkit predict runs/flowers table.csv --format csv --output predictions.csv",
        "find photos -name '*.jpg' -print0 | tlkit predict runs/flowers -0 -",
        "tlkit predict runs/flowers photos --format jsonl --top-k 3",
    )

    paths: list[str] | None = argument(
        "Images, folders, a table, or - for a list of paths on standard input", default=None, metavar="[PATH]..."
    )
    null: bool = option(
        False, "Paths on standard input end with NUL, as from find -print0", group="Input and output", short="-0"
    )
    crlf: bool = option(False, "Lines on standard input end with CRLF", group="Input and output")
    format: Literal["tsv", "csv", "jsonl"] = option("tsv", "Output format", group="Common")
    csv_safe: bool = option(
        False, "Put ' before cells that a spreadsheet would take for formulas", group="Input and output"
    )
    output: str | None = option(
        None, "File to write, when all is done", group="Common", shown="standard output", short="-o", metavar="FILE"
    )
    resume_from: int = option(
        0, "Skip the first N inputs; count lines only with --format jsonl", group="Input and output", minimum=0
    )
    allow_empty: bool = option(False, "Accept a list or folder without inputs", group="Input and output")
    summary: bool = option(False, "End with counts of inputs and failures on standard error", group="Input and output")
    top_k: int | None = option(
        None, "Labels per image, best first, with a rank column", group="Common", shown="the best", minimum=1
    )
    allow_truncated: bool = option(False, "Label truncated images from the part that exists", group="Data checks")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.csv_safe and self.format != "csv":
            raise UsageError("--csv-safe", f"needs --format csv, but --format is {self.format}")
        paths = self.paths or []
        self.check_table_options(*paths)
        if len(paths) > 1 and any(map(is_table, paths)):
            table = next(filter(is_table, paths))
            raise UsageError(table, "is a table, whose columns are written too; expected it to be the only PATH")
        if self.null and self.crlf:
            raise UsageError("--crlf", "reads lines, but --null reads paths that end with NUL; use one of them")
        if self.resume_from and self.output not in STANDARD_OUTPUT:
            output = shlex.quote(str(self.output))
            raise UsageError(
                f"--resume-from {self.resume_from}",
                f"cannot be combined with --output {self.output}, which would replace the earlier records",
                f"Append instead: tlkit predict ... --resume-from {self.resume_from} >> {output}",
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(InferenceOptions, RankOptions):
    """tlkit evaluate"""

    COMMON = ("split", "format", "batch_size", "device")
    EXAMPLES = (
        "tlkit evaluate runs/flowers photos",
        "tlkit evaluate runs/flowers photos --split test",
        "tlkit evaluate runs/flowers photos --format json | jq .accuracy",
    )

    data: str = argument("Folder of class folders, or of train, val and test folders; or a table")
    split: Literal["auto", "train", "val", "test", "all"] = option(
        "auto", "Images to evaluate; auto: test, else validation, else all", group="Common"
    )
    format: Literal["text", "json"] = option("text", "Output format", group="Common")
    skip_bad: bool = option(
        False, "Skip images that cannot be read; exit with status 3 at the end", group="Data checks"
    )
    processes: int = option(1, PROCESSES, group="Several devices", minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_table_options(self.data)
        check_ranks(self.processes, self.device, self.parallel)
