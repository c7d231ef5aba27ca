"""Options of check, backbones, fetch, summary, cache and doctor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tlkit.options.data import DataOptions
from tlkit.options.declare import Options, argument, option
from tlkit.options.models import ModelOptions


@dataclass(frozen=True, kw_only=True)
class CheckOptions(DataOptions, Options):
    """tlkit check"""

    COMMON = ("val", "quick", "format")
    EXAMPLES = (
        "tlkit check photos",
        "tlkit check photos --quick",
        "tlkit check photos --format json | jq .bad",
    )

    format: Literal["text", "json"] = option("text", "Output format", group="Common")
    quick: bool = option(False, "Check only the start and end of each file; do not decode", group="Common")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_data_options()


@dataclass(frozen=True, kw_only=True)
class BackbonesOptions(Options):
    """tlkit backbones"""

    COMMON = ("sizes",)
    EXAMPLES = ("tlkit backbones", "tlkit backbones resnet", "tlkit backbones 'convnext_t*' --sizes")

    pattern: str | None = argument("Part of a name; * and ? match as in a shell", default=None)
    sizes: bool = option(False, "Add parameters and input size; builds each model, so slow", group="Common")


@dataclass(frozen=True, kw_only=True)
class FetchOptions(Options):
    """tlkit fetch"""

    COMMON = ("output",)
    EXAMPLES = ("tlkit fetch resnet50", "tlkit fetch timm/convnext_tiny.in12k_ft_in1k --output convnext")

    backbone: str = argument("Backbone whose pretrained weights to pack", metavar="NAME")
    output: str | None = option(
        None, "Folder to create", group="Common", shown="the backbone's name", short="-o", metavar="DIR"
    )


@dataclass(frozen=True, kw_only=True)
class SummaryOptions(ModelOptions, Options):
    """tlkit summary"""

    COMMON = ("depth", "image_size")
    EXAMPLES = ("tlkit summary resnet50", "tlkit summary runs/flowers --depth 3")

    model: str = argument("Backbone name, run folder, checkpoint, model.pt or export", metavar="NAME_OR_MODEL")
    depth: int = option(2, "Levels of modules to list", group="Common", minimum=1)
    image_size: int | None = option(
        None, "Side of the square input in pixels", group="Common", shown="its own",
        minimum=16, maximum=4096,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CacheOptions(Options):
    """tlkit cache"""

    COMMON = ("clear",)
    EXAMPLES = ("tlkit cache", "tlkit cache --clear")

    clear: bool = option(False, "Delete all cached features; runs compute them again", group="Common")


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(Options):
    """tlkit doctor"""

    EXAMPLES = ("tlkit doctor", "tlkit doctor > report.txt")
