"""The options of finetune and resume: how to train, and what to keep of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from tlkit.errors import UsageError
from tlkit.options.data import DataOptions
from tlkit.options.declare import Options, argument, bytes_of, option
from tlkit.options.devices import DeviceOptions, Parallel
from tlkit.options.models import TrustOptions
from tlkit.options.monitoring import MonitoringOptions
from tlkit.options.network import NetworkOptions
from tlkit.options.ranks import PROCESSES, RestartOptions, check_ranks

MetricName = Literal["accuracy", "macro_f1", "loss", "balanced_accuracy", "top5_accuracy"]
"""The names of training.metrics.METRICS, repeated because options load no numpy; a test compares the two."""


METRIC_NAMES: tuple[str, ...] = get_args(MetricName)


DEFAULT_VIEWS = 8


DEFAULT_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(
    NetworkOptions, DataOptions, DeviceOptions, RestartOptions, MonitoringOptions, TrustOptions, Options
):
    """tlkit finetune"""

    out: str | None = option(None, "Run folder. Default: runs/<data>-<backbone>, numbered when taken.", metavar="DIR")
    epochs: int | None = option(
        None, "Passes over the training images. Default: 100; 20 where the backbone runs in each of them.", minimum=1
    )
    batch_size: int | Literal["auto"] = option(
        DEFAULT_BATCH,
        "Images per optimizer step. auto: with --unfreeze or --no-cache the largest that trains, found by trying; "
        f"else {DEFAULT_BATCH}, as vectors take no memory to speak of.",
        minimum=1,
        metavar="N|auto",
    )
    accumulate: int = option(
        1,
        "Parts that each batch passes in, one after another, so that less memory is needed; the step is that of the "
        "whole batch.",
        minimum=1,
        metavar="N",
    )
    gradient_checkpointing: bool = option(
        False,
        "Keep few activations of what --unfreeze trains, and compute the others again for the gradients: less memory, "
        "more time, the same bits.",
    )
    learning_rate: float = option(
        1e-2, "Highest of the schedule, for the head; unfrozen modules learn at a hundredth of it.", minimum=0
    )
    weight_decay: float = option(1e-2, "Decoupled for adamw, L2 for sgd; biases are left out.", minimum=0)
    optimizer: Literal["adamw", "sgd"] = option("adamw", "How the head is trained.")
    schedule: Literal["cosine", "constant", "step"] = option(
        "cosine", "Learning rate over the run: down to 0, constant, or divided by 10 after each third."
    )
    label_smoothing: float = option(0.0, "Share of each label spread over all classes.", minimum=0, maximum=0.99)
    class_weights: Literal["none", "balanced"] = option(
        "none", "balanced: weigh each class by the inverse of its number of training images."
    )
    augment: Literal["none", "light", "strong"] = option(
        "none", "Train on random views of the images: light crops and flips, strong also turns and recolors."
    )
    views: int | None = option(
        None,
        "Views of each image under --augment, taken in turn by the epochs. Default: 8; "
        "with --no-cache or --unfreeze a new one in each epoch.",
        minimum=1,
    )
    metric: MetricName = option("accuracy", "Decides which epoch is best.")
    patience: int | None = option(None, "Stop after so many epochs without a better --metric.", minimum=1)
    keep: int = option(3, "Newest checkpoints kept, beside the last and the best.", minimum=1)
    save_every: float = option(
        300.0,
        "Also save inside an epoch, after the first step that ends so many seconds after the last save; "
        "0: after each step. The most that a kill costs.",
        minimum=0,
        metavar="SECONDS",
    )
    no_cache: bool = option(False, "Run the backbone every epoch instead of once for each image.")
    cache_limit: str = option(
        "10GB",
        "Most that the vectors of all runs may take on disk (see `tlkit cache`); least recently used ones go first.",
        metavar="SIZE",
    )
    deterministic: bool = option(False, "Bit-exact on a GPU too, at some cost in speed.")
    processes: int = option(1, PROCESSES, minimum=1)
    sync_batchnorm: bool = option(
        False, "BatchNorm that --unfreeze trains takes its statistics over the batch of all ranks, not over each one's."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.views is not None and (self.augment == "none" or self.feeds_images()):
            other = "--augment light or strong" if self.augment == "none" else "neither --no-cache nor --unfreeze"
            raise UsageError("--views", f"needs {other}")
        if self.engine == "onnxruntime" and self.feeds_images():
            other = "--no-cache" if self.no_cache else "--unfreeze"
            raise UsageError("--engine onnxruntime", f"does not go with {other}, under which torch runs every epoch")
        if self.gradient_checkpointing and self.unfreeze is None:
            raise UsageError("--gradient-checkpointing", "needs --unfreeze: what is frozen keeps no activations")
        if isinstance(self.batch_size, int) and self.accumulate > self.batch_size:
            raise UsageError("--accumulate", f"{self.accumulate} parts are more than --batch-size {self.batch_size}")
        self.device_spec()
        if self.sync_batchnorm and self.unfreeze is None:
            raise UsageError("--sync-batchnorm", "needs --unfreeze: BatchNorm that is frozen has no statistics to take")
        if self.sync_batchnorm and self.accumulate > 1:
            raise UsageError("--sync-batchnorm", f"takes a batch in one part, but --accumulate is {self.accumulate}")
        check_ranks(self.processes, self.device, self.parallel, self.max_restarts)
        self.cache_bytes()
        self.check_data_options()
        self.check_network_options()
        self.check_monitoring_options()

    def images_per_step(self) -> int:
        """--batch-size, once it is found out what auto is."""
        assert isinstance(self.batch_size, int)
        return self.batch_size

    def cache_bytes(self) -> int:
        """--cache-limit in bytes. Raises UsageError."""
        return bytes_of("--cache-limit", self.cache_limit)

    def view_count(self) -> int:
        """Views of each image under --augment, where the backbone sees each once."""
        return self.views or DEFAULT_VIEWS

    def planned_epochs(self) -> int:
        """Epochs in all: on vectors they cost next to nothing."""
        if self.epochs is not None:
            return self.epochs
        return 20 if self.feeds_images() else 100

    def feeds_images(self) -> bool:
        """Whether the backbone must run every epoch: its output for an image is not always the same."""
        return self.no_cache or self.unfreeze is not None


@dataclass(frozen=True, kw_only=True)
class ResumeOptions(RestartOptions, MonitoringOptions, TrustOptions, Options):
    """tlkit resume"""

    checkpoint: str = argument("Run folder, or a checkpoint of one.", metavar="CKPT_OR_RUN")
    epochs: int | None = option(None, "Extend (or shorten) the run to so many epochs in all.", minimum=1)
    patience: int | None = option(
        None, "Stop after so many epochs without a better --metric. Default: as before.", minimum=1
    )
    out: str | None = option(None, "Go on in a new run folder, leaving the old one as it is.", metavar="DIR")
    data: str | None = option(None, "Where the images are now, if they have moved.", metavar="DIR")
    weights: str | None = option(None, "Where the backbone's weights file is now, if it has moved.", metavar="FILE")
    device: str | None = option(None, "auto, cpu, cuda or cuda:N, or several with --parallel. Default: as before.")
    engine: Literal["torch", "onnxruntime"] | None = option(
        None, "What runs the network from here on. Default: as before, so that no bit differs."
    )
    parallel: Parallel | None = option(None, "none, or several devices: data or model. Default: as before.")
    stages: int | None = option(None, "Stages of --parallel model. Default: as before.", minimum=2)
    split_at: str | None = option(
        None, "Modules that stages of --parallel model begin with. Default: as before.", metavar="NAMES"
    )
    workers: int | None = option(None, "Processes that decode images. Default: as before.", minimum=0)
    processes: int | None = option(None, f"{PROCESSES} Default: as before.", minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranks(self.processes, self.device, self.parallel, self.max_restarts)
        self.check_monitoring_options()
