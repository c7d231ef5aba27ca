"""The options of predict and evaluate, which run a model over images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tlkit.errors import UsageError
from tlkit.options.data import ImageOptions
from tlkit.options.declare import Options, argument, option
from tlkit.options.devices import DeviceOptions
from tlkit.options.models import ModelOptions
from tlkit.options.ranks import PROCESSES, RankOptions, check_ranks

STANDARD_OUTPUT = (None, "-", "/dev/stdout")
"""What predict's --output may call it."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions(ImageOptions, DeviceOptions, ModelOptions, Options):
    """tlkit predict"""

    model: str = argument("Run folder, checkpoint, model.pt, or an export to safetensors, timm, onnx or torch_export.")
    paths: list[str] | None = argument(
        "Images, folders of images, or - for a list of paths on standard input.", default=None, metavar="[PATH]..."
    )
    null: bool = option(False, "Paths on standard input end with a NUL byte, not a newline.", short="-0")
    crlf: bool = option(False, "They end as lines of Windows do; a byte order mark before the first is left out.")
    format: Literal["tsv", "csv", "jsonl"] = option("tsv", "How records are written.")
    output: str | None = option(
        None,
        "File for the records, there only when all are written. Default: standard output.",
        short="-o",
        metavar="FILE",
    )
    resume_from: int = option(
        0,
        "Leave out the first N inputs; the others keep their numbers. Lines are inputs in jsonl alone.",
        minimum=0,
        metavar="N",
    )
    summary: bool = option(False, "End standard error with the counts of inputs and failures, as a line of JSON.")
    top_k: int | None = option(
        None, "Labels for each image, best first; adds a rank column. Default: the best only.", minimum=1
    )
    batch_size: int = option(32, "Images that pass the model together at most.", minimum=1)
    allow_truncated: bool = option(
        False, "Label images that are cut short by what is there of them; jsonl marks them as degraded."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.device_spec()
        if self.null and self.crlf:
            raise UsageError("--crlf", "is for lists of lines, but --null reads names that end with a NUL byte")
        if self.resume_from and self.output not in STANDARD_OUTPUT:
            raise UsageError(
                f"--resume-from {self.resume_from}",
                f"does not go with --output {self.output}, which would replace the records of the inputs left out",
                "Append by >> to what is there.",
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ImageOptions, DeviceOptions, RankOptions, ModelOptions, Options):
    """tlkit evaluate"""

    model: str = argument("Run folder, checkpoint, model.pt, or an export to safetensors, timm, onnx or torch_export.")
    data: str = argument("Folder of class folders; its test (or val) folder is used where it has one.")
    split: Literal["auto", "train", "val", "test", "all"] = option(
        "auto",
        "Which images: the part of the run's own split, or a folder of that name. "
        "auto: test, else what the run was validated on, else val, else all.",
    )
    format: Literal["text", "json"] = option("text", "For people, or for programs.")
    batch_size: int = option(32, "Images that pass the model together.", minimum=1)
    skip_bad: bool = option(False, "Go on without images that cannot be read; ends with exit status 3.")
    processes: int = option(1, PROCESSES, minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.device_spec()
        check_ranks(self.processes, self.device, self.parallel)
