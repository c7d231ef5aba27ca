"""Where to compute, and in what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tlkit.declarations import option
from tlkit.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """What every command takes that runs a network over images."""

    device: str = option("auto", "auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "What the network computes in. auto: fp32; on a GPU bf16 where it is native."
    )
    engine: Literal["auto", "torch", "onnxruntime"] = option(
        "auto",
        "What runs the network. auto: torch; on the processor in fp32 onnxruntime, if tlkit[onnx] is installed, where "
        "that is sooner done.",
    )

    def check_device_options(self) -> None:
        """Raises UsageError for values that make no sense together."""
        if self.engine == "onnxruntime" and self.device not in ("auto", "cpu"):
            raise UsageError("--engine onnxruntime", f"is for the processor, but --device is {self.device}")
        if self.engine == "onnxruntime" and self.precision not in ("auto", "fp32"):
            raise UsageError("--engine onnxruntime", f"computes in fp32, but --precision is {self.precision}")
