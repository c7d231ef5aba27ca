"""Options of finetune and resume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

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
DEFAULT_FOLDS = 5

MOST_CROSS_VALIDATED = 5_000
"""Images up to which runs are cross-validated by default. With more, a fifth of them is enough to validate on."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(
    NetworkOptions, DataOptions, DeviceOptions, RestartOptions, MonitoringOptions, TrustOptions, Options
):
    """tlkit finetune"""

    COMMON: ClassVar[tuple[str, ...]] = (
        "backbone", "epochs", "batch_size", "learning_rate", "augment", "unfreeze", "val", "out", "device",
    )  # fmt: skip
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "tlkit finetune photos",
        "tlkit finetune photos --backbone resnet50 --epochs 30 --out runs/photos",
        "tlkit finetune photos --augment light --unfreeze layer4 --batch-size auto",
        "tlkit finetune photos --skip-bad --metric macro_f1 --patience 10",
    )

    out: str | None = option(
        None, "Run folder to create", group="Common", shown="runs/<data>-<backbone>", metavar="DIR"
    )
    epochs: int | None = option(
        None, "Passes over the training data", group="Common", shown="100, or 20 with --unfreeze", minimum=1
    )
    batch_size: int | Literal["auto"] = option(
        DEFAULT_BATCH, "Images per step; auto: the largest that fits in memory", group="Common", minimum=1
    )
    accumulate: int = option(1, "Gradient-accumulation steps", group="Speed and memory", minimum=1)
    gradient_checkpointing: bool = option(
        False, "Recompute activations in the backward pass: less memory, slower, same result", group="Speed and memory"
    )
    learning_rate: float = option(
        1e-2, "Peak learning rate of the head; unfrozen modules: a hundredth", group="Training", minimum=0, maximum=1e6
    )
    weight_decay: float = option(
        1e-2, "Weight decay, decoupled with adamw; biases are excluded", group="Training", minimum=0
    )
    optimizer: Literal["adamw", "sgd"] = option("adamw", "Optimizer", group="Training")
    schedule: Literal["cosine", "constant", "step"] = option(
        "cosine", "Learning-rate schedule; step: divide by 10 after each third", group="Training"
    )
    label_smoothing: float = option(
        0.0, "Share of each label spread over all classes", group="Training", minimum=0, maximum=0.99
    )
    class_weights: Literal["none", "balanced"] = option(
        "none", "Class weights in the loss; balanced: 1 / class size", group="Training"
    )
    augment: Literal["none", "light", "strong"] = option(
        "none", "Random crops and flips; strong adds rotation and color", group="Common"
    )
    views: int | None = option(
        None, "Augmented views computed per image, used in turn", group="Training", shown="8", minimum=1
    )
    folds: int | None = option(
        None, "Folds of cross-validation; 1: one split", group="Training", shown="5 to 5,000 images", minimum=1
    )
    metric: MetricName = option("accuracy", "Metric that selects the best epoch", group="Training")
    patience: int | None = option(
        None, "Early stopping: epochs without a better --metric", group="Training", shown="off", minimum=1
    )
    keep_checkpoints: int = option(
        3, "Recent checkpoints to keep, besides last and best", group="Checkpoints and logging", minimum=1
    )
    save_every: float = option(
        300.0, "Checkpoint at least every N seconds; 0: after each step", group="Checkpoints and logging",
        minimum=0, metavar="N",
    )  # fmt: skip
    no_onnx: bool = option(False, "Do not write model.onnx beside model.pt", group="Checkpoints and logging")
    no_cache: bool = option(
        False, "Run the backbone in every epoch instead of caching its features", group="Speed and memory"
    )
    cache_limit: str = option(
        "10GB", "Disk space for the features of all runs, e.g. 500MB", group="Speed and memory", metavar="N"
    )
    deterministic: bool = option(False, "Bit-exact results on GPUs too, at some cost in speed", group="Training")
    processes: int = option(1, PROCESSES, group="Several devices", minimum=1)
    train_batchnorm: bool = option(
        False, "Update the statistics of unfrozen BatchNorm; on with --weights none", group="Training"
    )
    sync_batchnorm: bool = option(
        False, "Share the statistics of unfrozen BatchNorm between processes", group="Several devices"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.views is not None and (self.augment == "none" or self.feeds_images()):
            other = "--augment light or strong" if self.augment == "none" else "neither --no-cache nor --unfreeze"
            raise UsageError("--views", f"needs {other}")
        if self.engine == "onnxruntime" and self.feeds_images():
            other = "--no-cache" if self.no_cache else "--unfreeze"
            raise UsageError(
                "--engine onnxruntime", f"cannot be combined with {other}, which needs torch in every epoch"
            )
        if self.gradient_checkpointing and self.unfreeze is None:
            raise UsageError("--gradient-checkpointing", "needs --unfreeze: frozen modules store no activations")
        if isinstance(self.batch_size, int) and self.accumulate > self.batch_size:
            raise UsageError("--accumulate", f"{self.accumulate} steps are more than --batch-size {self.batch_size}")
        if (self.folds or 1) > 1 and (self.val is not None or self.feeds_images()):
            other = "--val" if self.val is not None else "--no-cache" if self.no_cache else "--unfreeze"
            raise UsageError(f"--folds {self.folds}", f"cannot be combined with {other}")
        self.device_spec()
        if self.train_batchnorm and self.unfreeze is None:
            raise UsageError("--train-batchnorm", "needs --unfreeze: frozen BatchNorm keeps its statistics")
        if self.sync_batchnorm and self.unfreeze is None:
            raise UsageError("--sync-batchnorm", "needs --unfreeze: frozen BatchNorm computes no statistics")
        if self.sync_batchnorm and self.accumulate > 1:
            raise UsageError("--sync-batchnorm", f"needs whole batches, but --accumulate is {self.accumulate}")
        check_ranks(self.processes, self.device, self.parallel, self.max_restarts)
        self.cache_bytes()
        self.check_data_options()
        self.check_network_options()
        self.check_monitoring_options()

    def images_per_step(self) -> int:
        """--batch-size, after auto has been replaced by a number."""
        assert isinstance(self.batch_size, int)
        return self.batch_size

    def cache_bytes(self) -> int:
        """--cache-limit in bytes. Raises UsageError."""
        return bytes_of("--cache-limit", self.cache_limit)

    def view_count(self) -> int:
        """Augmented views per image, where each is computed once."""
        return self.views or DEFAULT_VIEWS

    def fold_count(self, images: int) -> int:
        """The number of cross-validation folds for images without validation images of their own; 1: one split."""
        if self.folds is not None:
            return self.folds
        single = self.val is not None or self.feeds_images() or images > MOST_CROSS_VALIDATED
        return 1 if single else DEFAULT_FOLDS

    def planned_epochs(self) -> int:
        """Epochs in all; more by default where cached features make them cheap."""
        if self.epochs is not None:
            return self.epochs
        return 20 if self.feeds_images() else 100

    def trains_batchnorm(self) -> bool:
        """Whether unfrozen BatchNorm updates its statistics. Random weights have none worth keeping."""
        return self.train_batchnorm or self.sync_batchnorm or self.weights == "none"

    def feeds_images(self) -> bool:
        """Whether the backbone runs in every epoch, because its output for an image can change."""
        return self.no_cache or self.unfreeze is not None


@dataclass(frozen=True, kw_only=True)
class ResumeOptions(RestartOptions, MonitoringOptions, TrustOptions, Options):
    """tlkit resume"""

    COMMON = ("epochs", "patience", "out", "data", "device")
    EXAMPLES = (
        "tlkit resume runs/flowers",
        "tlkit resume runs/flowers --epochs 90",
        "tlkit resume epoch_0003.pt --out runs/flowers-again",
    )

    checkpoint: str = argument("Run folder, or a checkpoint of one", metavar="CKPT_OR_RUN")
    epochs: int | None = option(
        None, "Epochs in all; extends or shortens the run", group="Common", shown="as before", minimum=1
    )
    patience: int | None = option(
        None, "Early stopping: epochs without improvement", group="Common", shown="as before", minimum=1
    )
    out: str | None = option(
        None, "Continue in a new run folder; the old one stays", group="Common", shown="the same", metavar="DIR"
    )
    data: str | None = option(
        None, "Folder or table of images, if it has moved", group="Common", shown="as before", metavar="DIR|FILE"
    )
    accept_changed_data: bool = option(
        False, "Start a new run from the checkpoint although images have changed", group="Data checks", stored=False
    )
    root: str | None = option(
        None, "Folder that the paths of a table are relative to", group="Common", shown="as before",
        metavar="DIR",
    )  # fmt: skip
    weights: str | None = option(
        None, "Backbone weights, if the file has moved", group="Model", shown="as before", metavar="FILE"
    )
    weights_key: str | None = option(
        None, "Which copy of the weights in the file", group="Model", shown="as before", metavar="NAME"
    )
    device: str | None = option(
        None, "Device; with --parallel several", group="Common", shown="as before", metavar="auto|cpu|cuda|NAME"
    )
    engine: Literal["torch", "onnxruntime"] | None = option(
        None, "Library that runs the network", group="Speed and memory", shown="as before"
    )
    parallel: Parallel | None = option(
        None, "Share each batch (data) or the layers (model)", group="Several devices", shown="as before"
    )
    stages: int | None = option(
        None, "Stages of --parallel model", group="Several devices", shown="as before", minimum=2
    )
    split_at: str | None = option(
        None, "Modules that start the later stages", group="Several devices", shown="as before", metavar="NAME,NAME"
    )
    workers: int | None = option(
        None, "Processes that decode images", group="Speed and memory", shown="as before", minimum=0
    )
    processes: int | None = option(
        None, "Processes on this machine", group="Several devices", shown="as before", minimum=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranks(self.processes, self.device, self.parallel, self.max_restarts)
        self.check_monitoring_options()
