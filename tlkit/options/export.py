"""The options of export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tlkit.errors import UsageError
from tlkit.options.declare import Options, argument, option
from tlkit.options.models import ModelOptions

EXPORT_SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torch_export": ".pt2"}
"""The suffix of each format whose file tlkit opens again."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ModelOptions, Options):
    """tlkit export"""

    COMMON = ("format", "output", "overwrite")
    EXAMPLES = (
        "tlkit export runs/flowers --output flowers.pt",
        "tlkit export runs/flowers --format onnx --output flowers.onnx",
        "tlkit export runs/flowers --format timm --output flowers-timm",
    )

    model: str = argument("Run folder, checkpoint, model.pt or export (safetensors, timm, .pt2)")
    format: Literal["state_dict", "full", "safetensors", "timm", "onnx", "torch_export"] = option(
        "state_dict", "Format to write", group="Common"
    )
    output: str | None = option(
        None, "File to write; a folder for timm", group="Common", shown="none, required", short="-o", metavar="FILE"
    )
    overwrite: bool = option(False, "Replace an existing file or folder", group="Common")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is None:
            raise UsageError("--output", "is missing; expected the file to write")
        for format, suffix in EXPORT_SUFFIXES.items():
            if self.format == format != "safetensors" and not self.output.endswith(suffix):
                raise UsageError(
                    f"--format {format}", f"does not match --output {self.output}; its name must end with {suffix}"
                )
            if self.format != format and self.output.endswith(suffix):
                raise UsageError(
                    f"--format {self.format}",
                    f"does not match --output {self.output}; use --format {format}, or another name",
                )
