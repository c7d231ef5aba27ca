"""The options about what a model computes on, and in: one device, or several in one process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tlkit.errors import UsageError
from tlkit.options.declare import option

Parallel = Literal["none", "data", "model"]


@dataclass(frozen=True)
class DeviceSpec:
    """What a model is to run on, as asked for. names: of the devices, or auto. split_at: modules, in order."""

    names: tuple[str, ...] = ("auto",)
    parallel: Parallel = "none"
    stages: int | None = None
    split_at: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """What every command takes that runs a network over images."""

    device: str = option("auto", "auto, cpu, cuda or cuda:N; under --parallel several, as in cuda:0,cuda:1.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "What the network computes in. auto: fp32; on a GPU bf16 where it is native."
    )
    engine: Literal["auto", "torch", "onnxruntime"] = option(
        "auto",
        "What runs the network. auto: torch; on the processor in fp32 onnxruntime, if tlkit[onnx] is installed, where "
        "that is sooner done.",
    )
    parallel: Parallel = option(
        "none",
        "Several devices in this process. model: the backbone's layers are divided among them, for one that is too "
        "large for a device; they take turns, so it is no faster. data: GPUs share out each batch; one process drives "
        "them all, so several processes are faster, and BatchNorm that trains sees each share alone.",
    )
    stages: int | None = option(
        None,
        "Stages of --parallel model, one on a device, balanced by parameters. Default: as many as devices.",
        minimum=2,
    )
    split_at: str | None = option(
        None,
        "Modules that the later stages of --parallel model begin with, instead of balancing, as in layer3.",
        metavar="NAMES",
    )

    def device_spec(self) -> DeviceSpec:
        """What the model is to run on. Raises UsageError for options that do not go together."""
        names = tuple(name.strip() for name in self.device.split(","))
        split_at = tuple(name.strip() for name in self.split_at.split(",")) if self.split_at else ()
        self.check_engine(names)
        check_parallel(self.parallel, names, self.stages, split_at)
        return DeviceSpec(names, self.parallel, self.stages, split_at)

    def check_engine(self, names: tuple[str, ...]) -> None:
        """Raises UsageError if onnxruntime is wanted where it cannot run. names: of the devices."""
        if self.engine == "onnxruntime" and (self.parallel != "none" or names not in (("auto",), ("cpu",))):
            other = f"--device is {self.device}" if self.parallel == "none" else f"--parallel is {self.parallel}"
            raise UsageError("--engine onnxruntime", f"is for one processor, but {other}")
        if self.engine == "onnxruntime" and self.precision not in ("auto", "fp32"):
            raise UsageError("--engine onnxruntime", f"computes in fp32, but --precision is {self.precision}")


def check_parallel(parallel: Parallel, names: tuple[str, ...], stages: int | None, split_at: tuple[str, ...]) -> None:
    """Raises UsageError for options of parallel devices that do not go together."""
    if parallel != "model":
        for flag, given in (("--stages", stages), ("--split-at", split_at)):
            if given:
                raise UsageError(flag, f"needs --parallel model, but --parallel is {parallel}")
    listed = ",".join(names)
    if parallel == "none" and len(names) > 1:
        raise UsageError("--device", f"{listed} are several devices, which need --parallel model or data")
    if parallel != "none" and names != ("auto",) and len(names) < 2:
        raise UsageError(
            f"--parallel {parallel}",
            f"needs two devices or more, but --device is {listed}",
            "Name them with commas between: --device cuda:0,cuda:1",
        )
    if parallel == "data" and "cpu" in names:
        raise UsageError("--parallel data", f"is for GPUs, but --device is {listed}")
    if split_at and stages is not None and stages != len(split_at) + 1:
        raise UsageError("--split-at", f"makes {len(split_at) + 1} stages, but --stages is {stages}")
    wanted = len(split_at) + 1 if split_at else stages
    if wanted is not None and names != ("auto",) and wanted != len(names):
        flag = "--split-at" if split_at else "--stages"
        raise UsageError(flag, f"makes {wanted} stages, but --device names {len(names)} devices: {listed}")
