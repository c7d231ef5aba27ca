"""Where to compute, and in what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tlkit.declarations import option


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """What every command takes that runs a network over images."""

    device: str = option("auto", "auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "What the network computes in. auto: fp32; on a GPU bf16 where it is native."
    )
