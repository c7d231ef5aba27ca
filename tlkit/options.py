"""The options of every command, each declared once: its type, default, bounds and help.

The command line derives its flags from these dataclasses, and combinations that make no sense are refused here,
before anything heavy is imported.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from tlkit.data_options import DataOptions, ImageOptions
from tlkit.declarations import Options, argument, bytes_of, option
from tlkit.errors import UsageError

DEFAULT_VIEWS = 8
DEFAULT_BACKBONE = "timm/vit_small_patch14_dinov2.lvd142m"

STANDARD_OUTPUT = (None, "-", "/dev/stdout")
"""What predict's --output may call it."""

EXPORT_SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torch_export": ".pt2"}
"""By which a file that describes itself is known when it is opened again."""


@dataclass(frozen=True, kw_only=True)
class TrustOptions:
    """What every command takes that reads weights or models."""

    trust_pickle: str | None = option(
        None,
        "Run the code in this one file of weights, or model: only if you trust whoever made it.",
        metavar="FILE",
        stored=False,
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(DataOptions, TrustOptions, Options):
    """tlkit finetune"""

    backbone: str = option(
        DEFAULT_BACKBONE,
        "Pretrained model: timm/NAME, torchvision/NAME, or a bare NAME looked up in that order "
        "(see `tlkit backbones`).",
        metavar="NAME",
    )
    weights: str = option(
        "pretrained",
        "pretrained (downloaded), none (random), or a .safetensors or .pth file.",
        metavar="pretrained|none|FILE",
    )
    out: str | None = option(None, "Run folder. Default: runs/<data>-<backbone>, numbered when taken.", metavar="DIR")
    epochs: int | None = option(
        None, "Passes over the training images. Default: 100; 20 where the backbone runs in each of them.", minimum=1
    )
    batch_size: int = option(16, "Images per optimizer step.", minimum=1)
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
    image_size: int | None = option(
        None, "Side of the square input in pixels. Default: the backbone's own.", minimum=16, maximum=4096
    )
    augment: Literal["none", "light", "strong"] = option(
        "none", "Train on random views of the images: light crops and flips, strong also turns and recolours."
    )
    views: int | None = option(
        None,
        "Views of each image under --augment, taken in turn by the epochs. Default: 8; "
        "with --no-cache or --unfreeze a new one in each epoch.",
        minimum=1,
    )
    unfreeze: str | None = option(
        None,
        "Modules of the backbone to train too: names or prefixes with commas between, or all.",
        metavar="NAMES",
    )
    head: Literal["linear", "mlp", "stack"] = option(
        "linear",
        "New classifier: linear or mlp in place of the backbone's own; stack: a linear layer on its "
        "pretrained class outputs.",
    )
    hidden: int | None = option(None, "Width of --head mlp. Default: 512.", minimum=1)
    metric: Literal["accuracy", "loss", "macro_f1"] = option("accuracy", "Decides which epoch is best.")
    patience: int | None = option(None, "Stop after so many epochs without a better --metric.", minimum=1)
    keep: int = option(3, "Newest checkpoints kept, beside the last and the best.", minimum=1)
    save_every: float = option(
        300.0,
        "Also save inside an epoch, after the first step that ends so many seconds after the last save; "
        "0: after each step. The most that a kill costs.",
        minimum=0,
        metavar="SECONDS",
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "What the backbone computes in. auto: fp32; on a GPU bf16 where it is native."
    )
    no_cache: bool = option(False, "Run the backbone every epoch instead of once for each image.")
    cache_limit: str = option(
        "10GB",
        "Most that the vectors of all runs may take on disk (see `tlkit cache`); least recently used ones go first.",
        metavar="SIZE",
    )
    deterministic: bool = option(False, "Bit-exact on a GPU too, at some cost in speed.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden is not None and self.head != "mlp":
            raise UsageError("--hidden", f"needs --head mlp, but --head is {self.head}")
        if self.head == "stack" and self.weights == "none":
            raise UsageError("--head stack", "needs the class outputs of pretrained weights, but --weights is none")
        if self.views is not None and (self.augment == "none" or self.feeds_images()):
            other = "--augment light or strong" if self.augment == "none" else "neither --no-cache nor --unfreeze"
            raise UsageError("--views", f"needs {other}")
        if self.precision == "fp16" and self.unfreeze is not None:
            raise UsageError("--precision fp16", "is too coarse to train --unfreeze in; use bf16 or fp32")
        self.cache_bytes()
        self.check_data_options()

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
class ResumeOptions(TrustOptions, Options):
    """tlkit resume"""

    checkpoint: str = argument("Run folder, or a checkpoint of one.", metavar="CKPT_OR_RUN")
    epochs: int | None = option(None, "Extend (or shorten) the run to so many epochs in all.", minimum=1)
    patience: int | None = option(
        None, "Stop after so many epochs without a better --metric. Default: as before.", minimum=1
    )
    out: str | None = option(None, "Go on in a new run folder, leaving the old one as it is.", metavar="DIR")
    data: str | None = option(None, "Where the images are now, if they have moved.", metavar="DIR")
    weights: str | None = option(None, "Where the backbone's weights file is now, if it has moved.", metavar="FILE")
    device: str | None = option(None, "auto, cpu, cuda or cuda:N. Default: as before.")
    workers: int | None = option(None, "Processes that decode images. Default: as before.", minimum=0)


@dataclass(frozen=True, kw_only=True)
class PredictOptions(ImageOptions, TrustOptions, Options):
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
    device: str = option("auto", "auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "What the model computes in. auto: fp32; on a GPU bf16 where it is native."
    )
    weights: str | None = option(
        None, "The backbone's weights file, if MODEL is a checkpoint and the file has moved.", metavar="FILE"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.null and self.crlf:
            raise UsageError("--crlf", "is for lists of lines, but --null reads names that end with a NUL byte")
        if self.resume_from and self.output not in STANDARD_OUTPUT:
            raise UsageError(
                f"--resume-from {self.resume_from}",
                f"does not go with --output {self.output}, which would replace the records of the inputs left out",
                "Append by >> to what is there.",
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ImageOptions, TrustOptions, Options):
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
    device: str = option("auto", "auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "What the model computes in. auto: fp32; on a GPU bf16 where it is native."
    )
    skip_bad: bool = option(False, "Go on without images that cannot be read; ends with exit status 3.")
    weights: str | None = option(
        None, "The backbone's weights file, if MODEL is a checkpoint and the file has moved.", metavar="FILE"
    )


@dataclass(frozen=True, kw_only=True)
class CheckOptions(DataOptions, Options):
    """tlkit check"""

    format: Literal["text", "json"] = option("text", "For people, or for programs.")
    quick: bool = option(False, "Look at the header and the end of each image only, instead of decoding it.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_data_options()


@dataclass(frozen=True, kw_only=True)
class ExportOptions(TrustOptions, Options):
    """tlkit export"""

    model: str = argument("Run folder, checkpoint, model.pt, or an export to safetensors, timm or torch_export.")
    format: Literal["state_dict", "full", "safetensors", "timm", "onnx", "torch_export"] = option(
        "state_dict", "What to write (see the README for what opens each)."
    )
    output: str | None = option(None, "File to write; for timm a folder.", short="-o", metavar="PATH")
    overwrite: bool = option(False, "Replace what is there.")
    weights: str | None = option(
        None, "The backbone's weights file, if MODEL is a checkpoint and the file has moved.", metavar="FILE"
    )

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


@dataclass(frozen=True, kw_only=True)
class BackbonesOptions(Options):
    """tlkit backbones"""

    pattern: str | None = argument("Part of a name, with * and ? as in a shell.", default=None)
    sizes: bool = option(False, "Also parameters and input size (builds each model: slow for many).")


@dataclass(frozen=True, kw_only=True)
class SummaryOptions(TrustOptions, Options):
    """tlkit summary"""

    model: str = argument("Backbone name, or a run folder, checkpoint, model.pt or export.", metavar="NAME_OR_MODEL")
    depth: int = option(2, "How deep modules are listed.", minimum=1)
    image_size: int | None = option(None, "Side of the square input in pixels, for a NAME.", minimum=16, maximum=4096)
    weights: str | None = option(
        None, "The backbone's weights file, if MODEL is a checkpoint and the file has moved.", metavar="FILE"
    )


@dataclass(frozen=True, kw_only=True)
class CacheOptions(Options):
    """tlkit cache"""

    clear: bool = option(False, "Remove all that is kept; it is computed again when it is needed.")


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(Options):
    """tlkit doctor"""


def worker_count(workers: int | None) -> int:
    """Processes that decode images: what was asked for, or one for each core this process may use."""
    return len(os.sched_getaffinity(0)) if workers is None else workers
