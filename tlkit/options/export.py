"""The options of export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tlkit.errors import UsageError
from tlkit.options.declare import Options, argument, option
from tlkit.options.models import ModelOptions

EXPORT_SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torch_export": ".pt2"}
"""By which a file that describes itself is known when it is opened again."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ModelOptions, Options):
    """tlkit export"""

    model: str = argument("Run folder, checkpoint, model.pt, or an export to safetensors, timm or torch_export.")
    format: Literal["state_dict", "full", "safetensors", "timm", "onnx", "torch_export"] = option(
        "state_dict", "What to write (see the README for what opens each)."
    )
    output: str | None = option(None, "File to write; for timm a folder.", short="-o", metavar="PATH")
    overwrite: bool = option(False, "Replace what is there.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is None:
            raise UsageError("--output", "is missing; name the file to write")
        for format, suffix in EXPORT_SUFFIXES.items():
            if self.format == format != "safetensors" and not self.output.endswith(suffix):
                raise UsageError(
                    f"--format {format}", f"does not fit --output {self.output}; its name must end with {suffix}"
                )
            if self.format != format and self.output.endswith(suffix):
                raise UsageError(
                    f"--format {self.format}",
                    f"does not fit --output {self.output}; use --format {format}, or another name",
                )
