"""Shared options: the device that a network runs on, its precision, and several devices in one process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tlkit.errors import UsageError
from tlkit.options.declare import option

Parallel = Literal["none", "data", "model"]

GPU = "cuda"
"""torch's name of a GPU, as --device takes it; see devices.kinds."""


def names_one_gpu(device: str | None) -> bool:
    """Whether --device names a single GPU, as cuda:1 does."""
    return device is not None and device.startswith(f"{GPU}:")


@dataclass(frozen=True)
class DeviceSpec:
    """The requested devices. names: device names, or auto. split_at: the first modules of the later stages."""

    names: tuple[str, ...] = ("auto",)
    parallel: Parallel = "none"
    stages: int | None = None
    split_at: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Options of every command that runs a network over images."""

    device: str = option(
        "auto", "Device; with --parallel several, e.g. cuda:0,cuda:1", group="Common", metavar="auto|cpu|cuda|NAME"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "Numeric precision; auto: bf16 on GPUs that support it, else fp32", group="Speed and memory"
    )
    engine: Literal["auto", "torch", "onnxruntime"] = option(
        "auto", "Library that runs the network; auto may use onnxruntime on a CPU", group="Speed and memory"
    )
    parallel: Parallel = option(
        "none", "Share each batch (data) or the layers (model) among devices", group="Several devices"
    )
    stages: int | None = option(
        None, "Stages of --parallel model", group="Several devices", shown="one per device", minimum=2
    )
    split_at: str | None = option(
        None, "Modules that start the later stages, e.g. layer3,layer4", group="Several devices",
        shown="balanced", metavar="NAME,NAME",
    )  # fmt: skip

    def device_spec(self) -> DeviceSpec:
        """The requested devices. Raises UsageError for invalid combinations."""
        names = tuple(name.strip() for name in self.device.split(","))
        split_at = tuple(name.strip() for name in self.split_at.split(",")) if self.split_at else ()
        self.check_engine(names)
        check_parallel(self.parallel, names, self.stages, split_at)
        return DeviceSpec(names, self.parallel, self.stages, split_at)

    def check_engine(self, names: tuple[str, ...]) -> None:
        """Raises UsageError for --engine onnxruntime with devices or a precision that it does not support."""
        if self.engine == "onnxruntime" and (self.parallel != "none" or names not in (("auto",), ("cpu",))):
            other = f"--device is {self.device}" if self.parallel == "none" else f"--parallel is {self.parallel}"
            raise UsageError("--engine onnxruntime", f"runs on one CPU only, but {other}")
        if self.engine == "onnxruntime" and self.precision not in ("auto", "fp32"):
            raise UsageError("--engine onnxruntime", f"computes in fp32, but --precision is {self.precision}")


def check_parallel(parallel: Parallel, names: tuple[str, ...], stages: int | None, split_at: tuple[str, ...]) -> None:
    """Raises UsageError for invalid combinations of --parallel, --device, --stages and --split-at."""
    if parallel != "model":
        for flag, given in (("--stages", stages), ("--split-at", split_at)):
            if given:
                raise UsageError(flag, f"needs --parallel model, but --parallel is {parallel}")
    listed = ",".join(names)
    if parallel == "none" and len(names) > 1:
        raise UsageError("--device", f"{listed} are several devices; add --parallel model or --parallel data")
    if parallel != "none" and names != ("auto",) and len(names) < 2:
        raise UsageError(
            f"--parallel {parallel}",
            f"needs at least two devices, but --device is {listed}",
            f"List them with commas: --device {GPU}:0,{GPU}:1",
        )
    if parallel == "data" and "cpu" in names:
        raise UsageError("--parallel data", f"runs on GPUs only, but --device is {listed}")
    if split_at and stages is not None and stages != len(split_at) + 1:
        raise UsageError("--split-at", f"makes {len(split_at) + 1} stages, but --stages is {stages}")
    wanted = len(split_at) + 1 if split_at else stages
    if wanted is not None and names != ("auto",) and wanted != len(names):
        flag = "--split-at" if split_at else "--stages"
        raise UsageError(flag, f"makes {wanted} stages, but --device names {len(names)} devices: {listed}")
